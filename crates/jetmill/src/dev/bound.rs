//! Children that the kernel ends with the thread that starts them.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

/// A command for the program; where there is no `setpriv`, only our own end ends it.
pub(crate) async fn bound_to_us(program: &Path) -> Command {
    let help = Command::new("setpriv").arg("--help").stdin(Stdio::null()).output().await;
    let can = help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--pdeathsig"));
    if !can {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}
