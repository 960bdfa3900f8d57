//! Compiles `proto/` with a compiler written in Rust, so that no `protoc` is needed.

#![expect(clippy::disallowed_methods, reason = "cargo tells a build script by its environment")]

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 8] =
    ["task", "limit", "schedule", "task_type", "policy", "event", "execution", "admin"];
const OWN_SERDE: [&str; 5] = [
    ".jetmill.v1.Json",
    ".jetmill.v1.Dependency",
    ".jetmill.v1.SubmitRequest",
    ".jetmill.v1.Schedule.Overlap",
    ".jetmill.v1.CatchUp.Mode",
];
const TIMES: [(&str, &str); 2] = [
    (".google.protobuf.Timestamp", "crate::wire::time::Timestamp"),
    (".google.protobuf.Duration", "crate::wire::time::Duration"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = FILES.map(|name| root.join(format!("jetmill/v1/{name}.proto")));
    let set = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut known = String::from("match message {\n");
    for message in set
        .file
        .iter()
        .filter(|file| file.package() == "jetmill.v1")
        .flat_map(|file| &file.message_type)
    {
        let names = message
            .field
            .iter()
            .flat_map(|field| [field.name().to_owned(), field.json_name().to_owned()])
            .collect::<Vec<_>>();
        writeln!(known, "    {:?} => &{names:?},", message.name())?;
    }
    known.push_str("    _ => &[],\n}\n");
    fs::write(out.join("fields.rs"), known)?;

    let bytes = set.encode_to_vec();
    fs::write(out.join("descriptors.binpb"), &bytes)?;

    let mut prost = prost_build::Config::new();
    prost
        .btree_map(["."])
        .boxed(".jetmill.v1.Event.kind.created")
        .boxed(".jetmill.v1.Event.kind.carried")
        .boxed(".jetmill.v1.Event.kind.resolved")
        .boxed(".jetmill.v1.Event.kind.document");
    let mut json = pbjson_build::Builder::new();
    json.register_descriptors(&bytes)?
        .exclude(OWN_SERDE)
        .btree_map(["."])
        .preserve_proto_field_names();
    for (proto, rust) in TIMES {
        prost.extern_path(proto, rust);
        json.extern_path(proto, rust);
    }
    prost.compile_fds(set)?;
    json.build(&[".jetmill.v1"])?;
    Ok(())
}
