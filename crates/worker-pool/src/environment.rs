//! What of the worker's own environment reaches a command: an allow-list, and secrets by name.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use jetmill_sdk::worker::{AttemptError, Execution};

use crate::roles::Role;

/// Variables that every command gets when the configuration says nothing else.
pub(crate) const ENV_ALLOW: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"];
/// The secret `env:TOKEN` is the worker's variable `JETMILL_SECRET_TOKEN`: a task can ask for what
/// was put there for tasks, and for nothing else.
const SECRET_PREFIX: &str = "JETMILL_SECRET_";
/// Largest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The parts of the worker's environment that commands may see.
#[derive(Clone)]
pub(crate) struct Environment {
    allowed: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    secrets_dir: Option<PathBuf>,
}

/// What a process is told of the attempt that it is.
pub(crate) fn of_attempt(
    execution: &Execution,
    traceparent: &str,
) -> impl Iterator<Item = (String, String)> + use<> {
    let traceparent =
        (!traceparent.is_empty()).then(|| ("TRACEPARENT".to_owned(), traceparent.to_owned()));
    [
        ("JETMILL_TASK_ID".to_owned(), execution.id.to_string()),
        ("JETMILL_ATTEMPT".to_owned(), execution.attempt.to_string()),
        ("JETMILL_TENANT".to_owned(), execution.tenant.to_string()),
    ]
    .into_iter()
    .chain(traceparent)
}

/// The task's input as the text of a process's standard input.
pub(crate) fn input(execution: &Execution) -> Option<String> {
    execution.spec.as_pb().input.as_ref().map(|json| json.text.clone())
}

impl Environment {
    /// Takes what is allowed from the variables of the process.
    pub(crate) fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        allow: &[String],
        secrets_dir: Option<PathBuf>,
    ) -> Self {
        let (mut allowed, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in variables {
            if let Some(name) = name.strip_prefix(SECRET_PREFIX) {
                secrets.insert(name.to_owned(), value);
            } else if allow.contains(&name) {
                allowed.insert(name, value);
            }
        }
        Self { allowed, secrets, secrets_dir }
    }

    /// The same with more variables for every command.
    pub(crate) fn with(mut self, more: BTreeMap<String, String>) -> Self {
        self.allowed.extend(more);
        self
    }

    /// The variables that every command gets.
    pub(crate) fn allowed(&self) -> &BTreeMap<String, String> {
        &self.allowed
    }

    /// The value of a secret, `env:NAME` or `file:NAME`, for a task of this role.
    pub(crate) fn secret(
        &self,
        reference: &str,
        role: Option<&Role>,
    ) -> Result<String, AttemptError> {
        role.map_or(Ok(()), |role| role.check_secret(reference))?;
        let missing = |what: String| AttemptError::permanent("secret_not_found", what);
        match reference.split_once(':') {
            Some(("env", name)) => self.secrets.get(name).cloned().ok_or_else(|| {
                missing(format!("this worker has no secret {reference:?}: start it with {SECRET_PREFIX}{name} set"))
            }),
            Some(("file", name)) => self.file(name).map_err(|why| {
                missing(format!("this worker cannot read the secret {reference:?}: {why}"))
            }),
            _ => Err(missing(format!("{reference:?} is no secret: say env:NAME or file:NAME"))),
        }
    }

    /// The values of secrets, by the variable that each is for.
    pub(crate) fn secrets<'a>(
        &self,
        references: impl IntoIterator<Item = (&'a String, &'a String)>,
        role: Option<&Role>,
    ) -> Result<BTreeMap<String, String>, AttemptError> {
        references
            .into_iter()
            .map(|(variable, reference)| Ok((variable.clone(), self.secret(reference, role)?)))
            .collect()
    }

    fn file(&self, name: &str) -> Result<String, String> {
        let folder = self
            .secrets_dir
            .as_ref()
            .ok_or("it has no folder for secrets; set worker_pool.secrets_dir")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.starts_with('.') || name.is_empty() || !name.chars().all(plain) {
            return Err("a name has letters, digits, `.`, `_` and `-` only".into());
        }
        let text = |error: io::Error| error.to_string();
        let folder = fs::canonicalize(folder).map_err(text)?;
        // A mounted secret is a link within its folder; one that leads out of it is none of ours.
        let path = fs::canonicalize(folder.join(name)).map_err(text)?;
        if !path.starts_with(&folder) {
            return Err("it leads out of the folder for secrets".into());
        }
        if fs::metadata(&path).map_err(text)?.len() > SECRET_BYTES_MAX {
            return Err(format!("it has more than {SECRET_BYTES_MAX} bytes"));
        }
        let value = fs::read_to_string(&path).map_err(text)?;
        let value = value.strip_suffix('\n').unwrap_or(&value);
        if value.contains('\0') {
            Err("it has a NUL character".into())
        } else {
            Ok(value.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_put_there_for_tasks_can_be_asked_for() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("token"), "from file\n").expect("file");
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("out")).expect("link");
        let variables = [("PATH", "/bin"), ("JETMILL_SECRET_TOKEN", "value"), ("OTHER", "x")];
        let environment = Environment::new(
            variables.map(|(k, v)| (k.to_owned(), v.to_owned())),
            &["PATH".to_owned()],
            Some(folder.path().to_owned()),
        );
        assert_eq!(environment.allowed().keys().collect::<Vec<_>>(), ["PATH"]);
        let more = [("JETMILL_NATS_URL".to_owned(), "nats://127.0.0.1:1".to_owned())];
        let more = environment.clone().with(more.into());
        assert_eq!(more.allowed().keys().collect::<Vec<_>>(), ["JETMILL_NATS_URL", "PATH"]);
        assert_eq!(environment.secret("env:TOKEN", None).as_deref(), Ok("value"));
        assert_eq!(environment.secret("file:token", None).as_deref(), Ok("from file"));
        for refused in
            ["env:OTHER", "env:PATH", "file:../token", "file:out", "file:none", "file:", "x"]
        {
            let error = environment.secret(refused, None).expect_err(refused);
            assert_eq!(error.code, "secret_not_found");
            assert!(!error.retryable);
        }
    }
}
