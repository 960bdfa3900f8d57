//! **Pure.** The container that an attempt becomes: what it may have, and nothing else.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};
use common::pb;

use super::{
    access::{Bind, Network},
    owner::Owner,
};

/// Nobody in particular, and never root.
const USER: &str = "1000:1000";
/// What every container may write to.
const SCRATCH: &str = "/tmp";
const MIB: i64 = 1024 * 1024;

/// What was judged already, and goes into a container.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    pub(super) env: Vec<(String, String)>,
    pub(super) binds: Vec<Bind>,
    pub(super) network: Network,
    pub(super) processes: u32,
    /// Whether something is written to its standard input.
    pub(super) stdin: bool,
    /// The volumes that the image asks for.
    pub(super) volumes: Vec<String>,
}

/// The order to the engine.
pub(super) fn body(docker: &pb::Docker, owner: &Owner, granted: &Granted) -> ContainerCreateBody {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    ContainerCreateBody {
        image: Some(docker.image.clone()),
        cmd: (!docker.command.is_empty()).then(|| docker.command.clone()),
        env: Some(granted.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(owner.labels()),
        user: Some(USER.into()),
        working_dir: given(&docker.working_dir),
        attach_stdin: Some(granted.stdin),
        open_stdin: Some(granted.stdin),
        stdin_once: Some(granted.stdin),
        network_disabled: Some(granted.network == Network::None),
        // The image's own would run beside the task.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host(docker, granted)),
        ..ContainerCreateBody::default()
    }
}

fn host(docker: &pb::Docker, granted: &Granted) -> HostConfig {
    let memory = i64::from(docker.memory_mb) * MIB;
    HostConfig {
        memory: Some(memory),
        // Memory and swap together: no swap.
        memory_swap: Some(memory),
        nano_cpus: Some((docker.cpus * 1e9).round() as i64),
        pids_limit: Some(granted.processes.into()),
        network_mode: Some(granted.network.to_string()),
        // A first process that hands signals on, and buries children that nobody waits for.
        init: Some(true),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges:true".into()]),
        ipc_mode: Some("private".into()),
        readonly_rootfs: Some(true),
        // Output is read as it comes; a log of the engine's own would fill its disk.
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("core".into()),
            soft: Some(0),
            hard: Some(0),
        }]),
        mounts: Some(granted.binds.iter().map(mount).collect()),
        tmpfs: Some(in_memory(docker, granted)),
        ..HostConfig::default()
    }
}

fn mount(bind: &Bind) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(bind.source.to_string_lossy().into_owned()),
        target: Some(bind.target.clone()),
        read_only: Some(!bind.writable),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            // What is mounted below the source was not judged, and would stay writable.
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// Folders in memory: those that the task asks for, `/tmp`, and in the place of the image's volumes,
/// which would be on the engine's disk without a bound.
fn in_memory(docker: &pb::Docker, granted: &Granted) -> HashMap<String, String> {
    let fresh = docker.mounts.iter().filter(|m| m.source.is_empty()).map(|m| m.target.as_str());
    let volumes = granted.volumes.iter().map(String::as_str);
    let size = (docker.memory_mb / 2).max(1);
    fresh
        .chain([SCRATCH])
        .chain(volumes)
        .map(|target| target.trim_end_matches('/').to_owned())
        .filter(|target| {
            let taken = |bind: &Bind| bind.target.trim_end_matches('/') == target;
            !target.is_empty() && !granted.binds.iter().any(taken)
        })
        // Older engines keep the mode that the folder has in the image: then it counts whose it is.
        .map(|target| {
            let owner = "mode=1777,uid=1000,gid=1000";
            (target, format!("rw,exec,nosuid,nodev,size={size}m,{owner}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(spec: Value, granted: &Granted) -> Value {
        let docker: pb::Docker = serde_json::from_value(spec).expect("a container");
        let owner = Owner {
            log: "log".into(),
            worker: "me".into(),
            tenant: "default".into(),
            task: "t".into(),
            attempt: 1,
        };
        serde_json::to_value(body(&docker, &owner, granted)).expect("JSON")
    }

    fn granted() -> Granted {
        Granted {
            env: vec![("A".into(), "b=c".into())],
            binds: Vec::new(),
            network: Network::None,
            processes: 16,
            stdin: false,
            volumes: Vec::new(),
        }
    }

    #[test]
    fn a_container_has_what_it_was_granted_and_nothing_else() {
        let made = made(json!({ "image": "a:1", "cpus": 0.5, "memory_mb": 64 }), &granted());
        assert_eq!(made["Image"], "a:1");
        assert_eq!(made["User"], "1000:1000");
        assert_eq!(made["Env"], json!(["A=b=c"]));
        assert_eq!(made["NetworkDisabled"], true);
        assert_eq!(made["Healthcheck"]["Test"], json!(["NONE"]));
        assert_eq!(made["Labels"]["jetmill.task"], "t");
        let host = &made["HostConfig"];
        for (field, expected) in [
            ("Memory", json!(64 * MIB)),
            ("MemorySwap", json!(64 * MIB)),
            ("NanoCpus", json!(500_000_000)),
            ("PidsLimit", json!(16)),
            ("NetworkMode", json!("none")),
            ("Privileged", json!(false)),
            ("CapDrop", json!(["ALL"])),
            ("SecurityOpt", json!(["no-new-privileges:true"])),
            ("ReadonlyRootfs", json!(true)),
            ("LogConfig", json!({ "Type": "none" })),
            ("Mounts", json!([])),
        ] {
            assert_eq!(host[field], expected, "{field}");
        }
        for absent in ["Binds", "CapAdd", "Devices", "PidMode", "VolumesFrom", "Runtime"] {
            assert!(host.get(absent).is_none_or(Value::is_null), "{absent}");
        }
        assert_eq!(
            host["Tmpfs"],
            json!({ "/tmp": "rw,exec,nosuid,nodev,size=32m,mode=1777,uid=1000,gid=1000" })
        );
    }

    #[test]
    fn what_can_be_written_is_in_memory_or_was_granted() {
        let granted = Granted {
            binds: vec![
                Bind { source: "/srv/a".into(), target: "/tmp/".into(), writable: true },
                Bind { source: "/srv/b".into(), target: "/b".into(), writable: false },
            ],
            volumes: vec!["/b".into(), "/var/lib/data/".into()],
            network: Network::Bridge,
            ..granted()
        };
        let mounts = json!([{ "target": "/work" }, { "source": "/srv/b", "target": "/b" }]);
        let spec = json!({ "image": "a", "cpus": 1, "memory_mb": 6, "mounts": mounts });
        let made = made(spec, &granted);
        assert_eq!(made["NetworkDisabled"], false);
        let host = &made["HostConfig"];
        let fresh = host["Tmpfs"].as_object().expect("folders");
        let mut fresh = fresh.keys().map(String::as_str).collect::<Vec<_>>();
        fresh.sort_unstable();
        assert_eq!(fresh, ["/var/lib/data", "/work"]);
        assert_eq!(host["Mounts"][0]["ReadOnly"], false);
        assert_eq!(host["Mounts"][1]["ReadOnly"], true);
        assert_eq!(host["Mounts"][1]["BindOptions"]["NonRecursive"], true);
    }
}
