//! Compiles the services of `proto/`; their messages are those of `common`.

#![expect(clippy::disallowed_methods, reason = "cargo tells a build script by its environment")]

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let set = protox::compile([root.join("jetmill/v1/admin.proto")], [&root])?;
    tonic_prost_build::configure().extern_path(".jetmill.v1", "::common::pb").compile_fds(set)?;
    Ok(())
}
