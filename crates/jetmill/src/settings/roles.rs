//! What the roles of tasks may use: `[roles.<name>]` in the configuration.

use std::collections::BTreeMap;

use common::time::parse_duration;
use runtime::config::Reader;
use worker_pool::roles::{Role, Roles};

/// The words of executors that a role may name.
const EXECUTORS: [&str; 6] = ["shell", "nats", "http", "lua", "docker", "worker"];

/// What allows no secret at all: an empty list would read so, and is refused.
const NONE: &str = "none";

/// Reads every role, and tells everything that is wrong with them.
pub(super) fn read(r: &mut Reader) -> Roles {
    let mut roles = BTreeMap::<String, Role>::new();
    for (key, text) in r.below("roles", "what the tasks of a role may use") {
        let (name, field) = key.split_once('.').unwrap_or((&key, ""));
        let role = roles.entry(name.to_owned()).or_default();
        name.clone_into(&mut role.name);
        if let Err(problem) = set(role, field, &text) {
            r.refuse(&format!("roles.{key}"), problem);
        }
    }
    Roles(roles.into_values().collect())
}

fn set(role: &mut Role, field: &str, text: &str) -> Result<(), String> {
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    // An empty list would read as "nothing", and restricts nothing.
    if items().next().is_none() {
        return Err("must name something; leave it out to restrict nothing".into());
    }
    match field {
        "executors" => {
            if let Some(unknown) = items().find(|word| !EXECUTORS.contains(word)) {
                return Err(format!("must be of {}, and has {unknown:?}", EXECUTORS.join(", ")));
            }
            role.executors = items().map(str::to_owned).collect();
        }
        "commands" => role.commands = items().map(str::to_owned).collect(),
        "env" => role.env = items().map(str::to_owned).collect(),
        "paths" => {
            if let Some(relative) = items().find(|path| !path.starts_with('/')) {
                return Err(format!("must be whole paths, and has {relative:?}"));
            }
            role.paths = items().map(Into::into).collect();
        }
        "images" => role.images = items().map(str::to_owned).collect(),
        "network" => role.network = Some(text.parse()?),
        "hosts" => role.hosts = items().map(str::parse).collect::<Result<_, _>>()?,
        "secrets" if text == NONE => role.secrets = Some(Vec::new()),
        "secrets" => {
            let fits = |word: &str| word.starts_with("env:") || word.starts_with("file:");
            if let Some(other) = items().find(|word| !fits(word)) {
                return Err(format!("must be env:NAME or file:NAME or {NONE}, and has {other:?}"));
            }
            role.secrets = Some(items().map(str::to_owned).collect());
        }
        "max_timeout" => {
            let most = parse_duration(text).filter(|most| !most.is_zero());
            role.max_timeout = Some(most.ok_or("must be a duration such as 30s or 5m")?);
        }
        _ => {
            return Err(
                "must be executors, commands, env, paths, secrets, hosts, images, network or max_timeout"
                    .into(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use runtime::config::Layers;
    use worker_pool::Network;

    use super::*;

    fn of(text: &str) -> Result<Roles, String> {
        let mut reader = Layers::new().toml(Path::new("a.toml"), text).reader();
        let roles = read(&mut reader);
        reader.finish().map(|()| roles).map_err(|e| e.to_string())
    }

    #[test]
    fn roles_are_read_as_they_are_written() {
        let text = r#"
            [roles.coder]
            executors = ["shell", "lua"]
            commands = ["git", "cargo test"]
            env = ["LEVEL"]
            paths = ["/code", "/tmp"]
            max_timeout = "5m"
            [roles.researcher]
            executors = ["http"]
            hosts = ["docs.rs", "example.com:8443"]
            secrets = ["env:HOOK", "file:token"]
            [roles.guest]
            secrets = "none"
            [roles.tester]
            executors = ["docker"]
            images = ["alpine:3"]
            network = "none"
        "#;
        let Roles(roles) = of(text).expect("valid");
        assert_eq!(
            roles.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
            ["coder", "guest", "researcher", "tester"]
        );
        let secrets = roles.iter().map(|r| r.secrets.as_ref().map(Vec::len)).collect::<Vec<_>>();
        assert_eq!(secrets, [None, Some(0), Some(2), None]);
        let coder = roles.first().expect("one");
        assert_eq!(coder.commands, ["git", "cargo test"]);
        assert_eq!(coder.env, ["LEVEL"]);
        assert_eq!(coder.max_timeout, Some(Duration::from_secs(300)));
        assert_eq!(coder.hosts, []);
        let tester = roles.last().expect("another");
        assert_eq!(
            (tester.images.as_slice(), tester.network),
            (&["alpine:3".to_owned()][..], Some(Network::None))
        );
    }

    #[test]
    fn everything_that_is_wrong_with_roles_is_told() {
        let text = r#"
            [roles.a]
            executors = ["ssh"]
            network = "host"
            paths = ["code"]
            hosts = ["https://a"]
            max_timeout = "soon"
            tools = ["git"]
            commands = []
            secrets = ["HOOK"]
        "#;
        let told = of(text).expect_err("not valid");
        let fields = ["executors", "network", "paths", "hosts", "max_timeout", "tools"];
        for key in fields.into_iter().chain(["commands", "secrets"]) {
            assert!(told.contains(&format!("roles.a.{key} must ")), "{key} in {told}");
        }
    }
}
