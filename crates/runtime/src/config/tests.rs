use std::time::Duration;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn toml(text: &str) -> Layers {
    Layers::new().toml(Path::new("a.toml"), text)
}

fn origin(reader: &Reader, key: &str) -> String {
    let found = reader.origins().into_iter().find(|entry| entry.key == key);
    found
        .map(|entry| format!("{} from {}", entry.value, entry.origin))
        .expect("a key that was read")
}

#[test]
fn a_flag_outranks_the_environment_and_that_the_file_and_that_the_default() {
    let file = "data_dir = 'f'\n[gateway]\nname = 'f'\nport = 1\n[gateway.a]\nb = 'f'\n";
    let mut reader = toml(file)
        .env(env(&[("JETMILL_GATEWAY__PORT", "2"), ("JETMILL_DATA_DIR", "e"), ("PATH", "/bin")]))
        .flag("data_dir", Some("x"))
        .flag("gateway.name", None::<&str>)
        .reader();
    reader.string("data_dir", "d", "where data lies");
    reader.string("gateway.name", "d", "a name");
    reader.string("gateway.other", "d", "a name");
    reader.string("gateway.a.b", "d", "a name");
    reader.u32("gateway.port", 0, 0..=9, "a port");
    assert_eq!(origin(&reader, "data_dir"), "x from flag --data-dir");
    assert_eq!(origin(&reader, "gateway.port"), "2 from environment JETMILL_GATEWAY__PORT");
    assert_eq!(origin(&reader, "gateway.name"), "f from file a.toml");
    assert_eq!(origin(&reader, "gateway.a.b"), "f from file a.toml");
    assert_eq!(origin(&reader, "gateway.other"), "d from default");
    reader.finish().expect("valid");
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = "gateway.port = 70000\ngateway.adress = '::1'\nwait = 'soon'\nlimit = '1 parsec'\n\
                listen = 'here'\ntoken = [[1]]\n";
    let mut reader = toml(text).env(env(&[("JETMILL_COLOUR", "maybe")])).reader();
    let default = "127.0.0.1:1".parse().expect("an address");
    assert_eq!(reader.u32("gateway.port", 4280, 0..=65535, ""), 4280);
    assert_eq!(
        reader.duration("wait", Duration::from_millis(1500), ""),
        Duration::from_millis(1500)
    );
    assert_eq!(reader.size("limit", 1 << 30, ""), 1 << 30);
    assert_eq!(reader.address("listen", default, ""), default);
    assert!(!reader.bool("colour", false, ""));
    reader.address("gateway.address", default, "");
    reader.refuse("limit", "must be more than the other");
    let ConfigErrors(mut errors) = reader.finish().expect_err("mistakes");
    errors.sort_unstable();
    assert_eq!(
        errors,
        [
            "colour must be true or false, and is \"maybe\" (environment JETMILL_COLOUR)",
            "gateway.port must be a number from 0 to 65535, and is \"70000\" (file a.toml)",
            "limit must be a size such as 64KiB or 20GiB, and is \"1 parsec\" (file a.toml)",
            "limit must be more than the other (file a.toml)",
            "listen must be an IP address and a port such as 127.0.0.1:4280 or [::1]:4280, \
             and is \"here\" (file a.toml)",
            "there is no key gateway.adress (file a.toml); did you mean gateway.address?",
            "token must be a value or a list of values (file a.toml)",
            "wait must be a duration such as 250ms, 30s or 1h30m, and is \"soon\" (file a.toml)",
        ]
    );
}

#[test]
fn a_broken_file_is_told_with_its_place() {
    let errors = toml("a = \n").reader().finish().expect_err("no TOML").to_string();
    assert!(errors.contains("cannot read a.toml: ") && errors.contains("line 1"), "{errors}");
    let errors = Layers::new().file(Some(Path::new("/none.toml"))).reader().finish();
    assert!(errors.expect_err("no file").to_string().contains("cannot read /none.toml"));
}

#[test]
fn variables_of_others_fill_gaps_and_passwords_are_not_shown() {
    let variables = env(&[
        ("NATS_HOST", "nats"),
        ("NATS_PORT", "4333"),
        ("DATABASE_URL", "postgres://a:b@c/d"),
    ]);
    let mut reader = toml("").env(variables.clone()).reader();
    assert_eq!(reader.string(NATS_URL, "", ""), "nats://nats:4333");
    assert_eq!(reader.string(LEDGER_URL, "", ""), "postgres://a:b@c/d");
    assert_eq!(origin(&reader, NATS_URL), "nats://nats:4333 from environment NATS_HOST");
    assert_eq!(origin(&reader, LEDGER_URL), "postgres://a:***@c/d from environment DATABASE_URL");

    let mut reader = toml("nats.url = 'nats://file:1'").env(variables).reader();
    assert_eq!(reader.string(NATS_URL, "", ""), "nats://file:1");
}

#[test]
fn only_what_looks_like_a_slip_in_the_environment_is_one() {
    let variables = [("JETMILL_SERVICE_HOST", "10.0.0.1"), ("JETMILL_TASK_ID", "a")];
    let slips = [("JETMILL_DATADIR", "x"), ("JETMILL_GATEWAY__COLOUR", "x")];
    let mut reader = Layers::new().env(env(&variables)).env(env(&slips)).reader();
    reader.string("data_dir", "", "where data lies");
    let ConfigErrors(errors) = reader.finish().expect_err("two slips");
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("did you mean data_dir?"), "{errors:?}");
}

#[test]
fn lists_are_arrays_in_files_and_have_commas_elsewhere() {
    let mut reader =
        toml("queues = ['a:4', 'b:1']").env(env(&[("JETMILL_OTHERS", "x, y,")])).reader();
    assert_eq!(reader.list("queues", &["default:4"], ""), ["a:4", "b:1"]);
    assert_eq!(reader.list("others", &[], ""), ["x", "y"]);
    assert!(reader.list("third", &[], "").is_empty());
    assert_eq!(reader.path("path", None, ""), None);
}
