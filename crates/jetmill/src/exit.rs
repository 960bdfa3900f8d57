//! How the program ends: the exit codes that scripts rely on, and how an error is told.

use std::{io, process::ExitCode};

use common::{
    error::{ApiError, ErrorCode},
    pb,
};
use owo_colors::OwoColorize as _;
use runtime::config::ConfigErrors;

use crate::output;

/// The exit codes. They are part of the interface: `docs/reference/cli.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Done,
    /// Something failed, or a task that was waited for did not complete.
    Failed,
    /// The input is wrong; the same command can never succeed.
    BadInput,
    /// There is no such thing.
    NotFound,
    /// The state of things does not allow it.
    Conflict,
    /// Something that is needed does not answer; try again.
    Unavailable,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Every code with its meaning, for the reference.
    #[cfg(test)]
    pub(crate) const ALL: [(Self, &str); 7] = [
        (Self::Done, "everything was done"),
        (Self::Failed, "something failed, or a task that was waited for did not complete"),
        (Self::BadInput, "the input is wrong: the same command can never succeed"),
        (Self::NotFound, "there is no such thing"),
        (Self::Conflict, "the state of things does not allow it"),
        (Self::Unavailable, "something that is needed does not answer: try again"),
        (Self::Interrupted, "interrupted by Ctrl-C"),
    ];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidArgument => Self::BadInput,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Conflict | ErrorCode::FailedPrecondition => Self::Conflict,
            ErrorCode::Exhausted | ErrorCode::Unavailable => Self::Unavailable,
            ErrorCode::Internal => Self::Failed,
        }
    }
}

/// Tells an error on standard error and says how the program ends.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        // Whoever read the output has enough of it, as in `jetmill ls | head`.
        return Exit::Done;
    }
    let (exit, told) = judge(error);
    // With nobody to hear the error there is only the exit code left.
    let _ = if json {
        let detail = serde_json::json!({ "error": pb::ErrorDetail::from(told) });
        output::note(detail)
    } else {
        tell(&told)
    };
    exit
}

/// The same, as the API's error.
fn judge(error: &anyhow::Error) -> (Exit, ApiError) {
    if let Some(api) = error.chain().find_map(|cause| cause.downcast_ref::<ApiError>()) {
        return (api.code.into(), api.clone());
    }
    if let Some(config) = error.downcast_ref::<ConfigErrors>() {
        let told = ApiError::new(ErrorCode::InvalidArgument, config.to_string())
            .hint("`jetmill config show --origin` shows every setting and where it comes from");
        return (Exit::BadInput, told);
    }
    (Exit::Failed, ApiError::new(ErrorCode::Internal, runtime::chain(error)))
}

fn tell(error: &ApiError) -> io::Result<()> {
    output::note(format_args!("{} {}", "error:".red().bold(), error.message))?;
    for violation in &error.violations {
        output::note(format_args!("  {} {}", violation.field.bold(), violation.problem))?;
    }
    if !error.hint.is_empty() {
        output::note(format_args!("{} {}", "help:".cyan().bold(), error.hint))?;
    }
    Ok(())
}

/// An error in what the user typed.
pub(crate) fn bad_input(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_of_the_api_decides_the_exit_code_through_any_context() {
        let error =
            Err::<(), _>(ApiError::no_task("a")).context("failed to look").expect_err("an error");
        assert_eq!(judge(&error).0, Exit::NotFound);
        assert_eq!(judge(&anyhow::anyhow!("no")).0, Exit::Failed);
        let config = anyhow::Error::from(ConfigErrors(vec!["a must be b".into()]));
        assert_eq!(judge(&config).0, Exit::BadInput);
    }

    #[test]
    fn exit_codes_are_stable() {
        let codes = Exit::ALL.map(|(exit, _)| exit.code());
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130]);
    }
}
