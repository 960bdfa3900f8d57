use std::os::unix::fs::symlink;

use common::pb;
use serde_json::{Value, json};

use super::*;
use crate::environment::Environment;

fn spec(value: Value) -> TaskSpec {
    let spec: pb::TaskSpec = serde_json::from_value(value).expect("a submission");
    TaskSpec::parse(spec).expect("a valid one")
}

fn coder() -> Role {
    Role {
        name: "coder".into(),
        executors: vec!["shell".into(), "lua".into()],
        max_timeout: Some(Duration::from_secs(300)),
        ..Role::default()
    }
}

/// The code of a refusal, which says what is allowed.
fn code<T: std::fmt::Debug>(judged: Result<T, AttemptError>) -> String {
    let error = judged.expect_err("refused");
    assert!(!error.retryable && error.message.contains("allow"), "{error:?}");
    error.code
}

#[test]
fn a_task_has_the_role_that_it_names_or_the_one_for_all_others() {
    let roles = Roles(vec![coder()]);
    let of = |value: Value| {
        roles.of(&spec(value)).map(|role| role.map(|r| r.name.clone())).map_err(|e| e.code)
    };
    assert_eq!(of(json!({})), Ok(None));
    assert_eq!(of(json!({"role": "coder"})), Ok(Some("coder".into())));
    assert_eq!(of(json!({"role": "Coder"})), Err("unknown_role".into()));
    let all = Roles(vec![Role { name: DEFAULT.into(), ..Role::default() }]);
    let role = all.of(&spec(json!({}))).expect("known").expect("there");
    assert_eq!(role.name, DEFAULT);
}

#[test]
fn executors_and_times_are_bounded() {
    let check = |value: Value| coder().check(&spec(value));
    let shell = json!({"shell": {"script": "true"}});
    assert_eq!(check(json!({"executor": shell})), Ok(()), "the default is 120 s");
    assert_eq!(check(json!({"executor": shell, "timeouts": {"run": "300s"}})), Ok(()));
    for run in ["301s", "0s"] {
        let task = json!({"executor": shell, "timeouts": {"run": run}});
        assert_eq!(code(check(task)), "timeout_exceeded", "{run}");
    }
    let http = json!({"executor": {"http": {"url": "http://a"}}});
    assert_eq!(code(check(http.clone())), "forbidden_executor");
    assert_eq!(Role::default().check(&spec(http)), Ok(()), "what is not said restricts nothing");
}

#[test]
fn a_command_is_the_file_that_the_role_names() {
    let folder = tempfile::tempdir().expect("folder");
    let link = |name: &str, to: &str| symlink(to, folder.path().join(name)).expect("link");
    link("true", "/bin/true");
    link("innocent", "/bin/sh");
    std::fs::copy("/bin/true", folder.path().join("false")).expect("a copy");
    let commands = vec!["true".into(), "/bin/false".into(), "echo hello".into(), "gone".into()];
    let role = Role { commands, env: vec!["GIVEN".into()], ..coder() };
    let check = |argv: &[&str], env: &[&str]| {
        let argv = argv.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let env = env.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let env = env.iter().collect::<Vec<_>>();
        let command = Command { argv: &argv, cwd: folder.path(), env: &env };
        role.check_command(command, Some("/usr/bin:/bin"))
    };
    for good in
        [&["true"][..], &["/bin/true", "--any"], &["./true"], &["false"], &["echo", "hello", "you"]]
    {
        let file = check(good, &["GIVEN"]).expect("allowed").expect("a file");
        assert!(!file.starts_with(folder.path()), "{file:?} is not the role's own");
    }
    for bad in [
        &["sh", "-c", "true"][..],
        &["./innocent"],
        &["./false"],
        &["echo"],
        &["echo", "goodbye"],
        &["echo", "hellox"],
        &["/bin/../bin/cat"],
        &["env", "true"],
    ] {
        assert_eq!(code(check(bad, &[])), "forbidden_command", "{bad:?}");
    }
    assert_eq!(check(&["gone"], &[]).expect_err("refused").code, "command_not_found");
    for variable in ["LD_PRELOAD", "PATH", "BASH_ENV", "PYTHONPATH", "NODE_OPTIONS", "GIVEN2"] {
        assert_eq!(code(check(&["true"], &[variable])), "forbidden_command", "{variable}");
    }
}

#[test]
fn a_secret_is_the_one_that_the_role_names() {
    let role = |secrets: &[&str]| {
        let secrets = Some(secrets.iter().map(|s| (*s).to_owned()).collect());
        Role { secrets, ..coder() }
    };
    let one = role(&["env:HOOK"]);
    assert_eq!(one.check_secret("env:HOOK"), Ok(()));
    for other in ["env:PROD_DB", "file:HOOK", "env:HOOK2", "HOOK"] {
        assert_eq!(code(one.check_secret(other)), "forbidden_secret", "{other}");
    }
    assert_eq!(code(role(&[]).check_secret("env:HOOK")), "forbidden_secret");
    assert_eq!(coder().check_secret("env:HOOK"), Ok(()), "what is not said restricts nothing");
    // Whoever asks for a secret asks here.
    let secrets = [("JETMILL_SECRET_PROD_DB".to_owned(), "value".to_owned())];
    let environment = Environment::new(secrets, &[], None);
    assert_eq!(code(environment.secret("env:PROD_DB", Some(&one))), "forbidden_secret");
    assert_eq!(environment.secret("env:PROD_DB", None).as_deref(), Ok("value"));
}

#[test]
fn a_folder_is_judged_without_links_and_dots() {
    let (inside, outside) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    std::fs::create_dir(inside.path().join("deep")).expect("a folder");
    symlink(outside.path(), inside.path().join("out")).expect("a link");
    symlink(inside.path().join("deep"), outside.path().join("in")).expect("a link");
    let role = Role { paths: vec![inside.path().to_owned()], ..coder() };
    let check = |path: PathBuf| role.check_folder(&path.to_string_lossy());
    for good in [inside.path().to_owned(), inside.path().join("deep"), outside.path().join("in")] {
        let real = check(good).expect("allowed").expect("a folder");
        assert!(real.starts_with(inside.path().canonicalize().expect("there")));
    }
    let twin = PathBuf::from(format!("{}x", inside.path().display()));
    std::fs::create_dir(&twin).expect("a folder");
    for bad in [
        outside.path().to_owned(),
        inside.path().join("out"),
        inside.path().join(".."),
        inside.path().join("deep/../.."),
        twin.clone(),
        "/".into(),
    ] {
        assert_eq!(code(check(bad)), "forbidden_path");
    }
    std::fs::remove_dir(twin).expect("removed");
    assert_eq!(check(inside.path().join("none")).expect_err("refused").code, "cwd_not_found");
}

#[test]
fn images_networks_and_mounts_are_bounded() {
    let tester = Role {
        name: "tester".into(),
        images: vec!["alpine:3".into()],
        network: Some(Network::None),
        paths: vec!["/tmp".into()],
        ..Role::default()
    };
    assert_eq!(tester.check_image("alpine:3"), Ok(()));
    for image in ["alpine", "alpine:3.1", "evil/alpine:3", "Alpine:3"] {
        assert_eq!(code(tester.check_image(image)), "forbidden_image", "{image}");
    }
    assert_eq!(tester.check_network(Network::None), Ok(()));
    assert_eq!(code(tester.check_network(Network::Bridge)), "forbidden_network");
    assert_eq!(code(tester.check_mount(Path::new("/etc"))), "forbidden_path");
    let any = Role::default();
    assert_eq!(any.check_image("a"), Ok(()));
    assert_eq!(any.check_network(Network::Bridge), Ok(()));
    assert_eq!(any.check_mount(Path::new("/etc")), Ok(()));
}
