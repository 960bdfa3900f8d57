//! How a command finds the platform: a flag, the environment, a `jetmill dev` of this folder, or the
//! usual address.

use std::{
    env,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;
use common::{
    error::ApiError,
    id::{TaskId, Tenant},
    limits, pb,
    time::{Clock as _, Timestamp},
};
use jetmill_sdk::Client;
use runtime::clock::SystemClock;

use crate::{cli::Global, dev::Addresses, output::Ui};

/// The address that NATS has where nobody says another.
pub(crate) const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// What a command of a client works with.
pub(crate) struct Session {
    pub(crate) ui: Ui,
    pub(crate) tenant: Tenant,
    pub(crate) client: Client,
}

impl Session {
    /// Connects.
    pub(crate) async fn open(global: &Global) -> anyhow::Result<Self> {
        let ui = Ui { json: global.json };
        let bus = bus::connect(&options(global)).await?;
        let tenant = global.tenant.clone().unwrap_or_default();
        Ok(Self { ui, tenant, client: Client::new(bus) })
    }

    /// All documents of a kind, or those of a name: page after page.
    pub(crate) async fn policies(
        &self,
        kind: pb::DocumentKind,
        name: &str,
    ) -> Result<Vec<pb::Document>, ApiError> {
        let mut request =
            pb::PoliciesRequest { kind: kind.into(), name: name.to_owned(), ..Default::default() };
        let mut documents = Vec::new();
        loop {
            let page = self.client.policies(&request).await?;
            documents.extend(page.documents);
            if page.next_page_token.is_empty() || documents.len() > limits::DOCUMENTS_MAX {
                return Ok(documents);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Takes an id from the command line.
    pub(crate) fn id(id: &str) -> Result<TaskId, ApiError> {
        TaskId::parse(id).map_err(|e| ApiError::invalid_field("ID", e.to_string()))
    }

    /// Now, for times relative to it.
    pub(crate) fn now() -> Timestamp {
        SystemClock.now()
    }

    /// Who changes something, as the log keeps it.
    pub(crate) fn actor() -> String {
        let user =
            ["USER", "LOGNAME"].into_iter().find_map(|name| env::var_os(name)?.into_string().ok());
        format!("cli:{}", user.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into()))
    }
}

/// Where to connect and as whom.
pub(crate) fn options(global: &Global) -> bus::ConnectOptions {
    let text = |name: &str| env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty());
    let url = global
        .nats_url
        .clone()
        .or_else(|| text("JETMILL_NATS_URL"))
        .or_else(|| Addresses::read(Path::new(".jetmill")).map(|found| found.nats))
        .unwrap_or_else(|| DEFAULT_URL.to_owned());
    let credentials =
        global.nats_creds.clone().or_else(|| text("JETMILL_NATS_CREDS").map(Into::into));
    bus::ConnectOptions { url, name: "jetmill-cli".into(), credentials }
}

/// A file's text, or standard input's where the path is `-`.
pub(crate) async fn read_text(path: &Path) -> anyhow::Result<Vec<u8>> {
    /// More than this is not one submission file.
    const FILE_BYTES_MAX: u64 = 1 << 30;
    let owned = path.to_owned();
    // A thread of its own: standard input may be a person who takes their time.
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let limit = FILE_BYTES_MAX + 1;
        if owned == Path::new("-") {
            io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
        } else {
            File::open(owned)?.take(limit).read_to_end(&mut bytes)?;
        }
        io::Result::Ok(bytes)
    });
    let read = read.await.context("failed to read")?;
    let name = path.display();
    let bytes = read.map_err(|e| crate::exit::bad_input(format!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let told = crate::exit::bad_input(format!("{name} has more than 1 GiB")).hint("split it");
        return Err(told.into());
    }
    Ok(bytes)
}
