//! `docs/reference/cli.md` is generated from the command line: this test compares, and with
//! `UPDATE=1` in the environment writes.

use std::{fmt::Write as _, fs, path::Path};

use clap::{Command, CommandFactory as _};

use crate::{cli::Cli, exit::Exit};

fn reference() -> String {
    let mut text = String::from(
        "# The command line\n\n\
         Generated from the program by a test (`UPDATE=1 cargo test -p jetmill docs`); do not edit.\n\n\
         Answers go to standard output, everything else to standard error. With `--json` the answer is \
         one JSON object, or one a line where there are several (`watch`, `logs`, `doctor`, `services`, \
         `config show`, and `submit -f`: a submission for each line of the file, then with `--wait` the \
         outcomes); an error is `{\"error\": {\"code\", \"message\", \"hint\", \"violations\"}}` on standard \
         error. Colours respect `NO_COLOR`. What changes many tasks at once asks first; without a terminal \
         it wants `--yes`. `jetmill dev` and `jetmill bench` bring their own NATS and take no notice of \
         `--nats-url`.\n\n## Exit codes\n\n| code | meaning |\n|---|---|\n",
    );
    for (exit, meaning) in Exit::ALL {
        let _ = writeln!(text, "| {} | {meaning} |", exit.code());
    }
    let mut command = Cli::command().term_width(100);
    command.build();
    describe(&mut text, &mut command, "");
    text
}

fn describe(text: &mut String, command: &mut Command, path: &str) {
    let path = format!("{path} {}", command.get_name()).trim().to_owned();
    let help = command.render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let level = "#".repeat(2 + path.split(' ').count().saturating_sub(1).min(2));
    let _ = write!(text, "\n{level} {path}\n\n```text\n{}\n```\n", help.trim());
    for sub in command.get_subcommands_mut() {
        if sub.get_name() != "help" && !sub.is_hide_set() {
            describe(text, sub, &path);
        }
    }
}

#[test]
fn the_reference_is_what_the_program_says() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let (said, written) = (reference(), fs::read_to_string(&file).unwrap_or_default());
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(&file, said).expect("written");
        return;
    }
    assert!(
        said == written,
        "docs/reference/cli.md is out of date: UPDATE=1 cargo test -p jetmill docs"
    );
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}
