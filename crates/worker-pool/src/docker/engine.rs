//! The engine, asked for what the executor needs: its API through bollard, its troubles in our words.

use std::{collections::HashMap, io, path::Path, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::AttachContainerResults,
    errors::Error,
    models::{ContainerCreateBody, ContainerStatsResponse},
    query_parameters::{
        AttachContainerOptions, CreateContainerOptions, KillContainerOptions,
        ListContainersOptions, RemoveContainerOptions, StatsOptions, WaitContainerOptions,
    },
};
use common::limits;
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::owner::{Found, Owner};

/// Time between two looks at a container that is being removed by somebody else.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection to an engine; each request has its own.
#[derive(Clone, Debug)]
pub(super) struct Client(Docker);

/// Why an engine did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// There is none, or it went away.
    #[error("{0}")]
    Away(String),
    /// It has no such thing.
    #[error("{0}")]
    Missing(String),
    /// Something else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// It does not do such a thing.
    #[error("{0}")]
    Refused(String),
    /// It could not.
    #[error("{0}")]
    Failed(String),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) exit: i64,
    pub(super) out_of_memory: bool,
    /// What the engine says about a container that it could not run.
    pub(super) error: String,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if let Error::DockerResponseServerError { status_code, message } = &error {
            let message = message.trim().to_owned();
            return match status_code {
                404 => Self::Missing(message),
                409 => Self::Conflict(message),
                400..500 => Self::Refused(message),
                _ => Self::Failed(format!("{message} (status {status_code})")),
            };
        }
        if let Error::SocketNotFoundError(path) = &error {
            return Self::Away(format!("there is no socket {path}"));
        }
        if matches!(error, Error::RequestTimeoutError) {
            return Self::silent();
        }
        let unheard = matches!(
            error,
            Error::HyperLegacyError { .. }
                | Error::HyperResponseError { .. }
                | Error::IOError { .. }
        );
        if unheard { Self::Away(cause(&error)) } else { Self::Failed(error.to_string()) }
    }
}

impl Trouble {
    fn silent() -> Self {
        Self::Away(format!("it did not answer within {:?}", limits::ENGINE_WAIT))
    }
}

/// The root of an error: what stands above it says the same with less.
fn cause(error: &Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    match last.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied) => {
            "its socket may not be opened by this user: `usermod -aG docker <user>`".into()
        }
        Some(io::ErrorKind::ConnectionRefused) => "nobody listens at its socket".into(),
        _ => last.to_string(),
    }
}

type Answer<T> = Result<T, Trouble>;

/// Asks, with a bound also for an answer that begins and does not end.
async fn ask<T>(asked: impl Future<Output = Result<T, Error>>) -> Answer<T> {
    match timeout(limits::ENGINE_WAIT, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Trouble::silent()),
    }
}

impl Client {
    /// Finds out whether an engine answers, and which version of its API it speaks.
    pub(super) async fn connect(socket: &Path) -> Answer<Self> {
        let wait = limits::ENGINE_WAIT.as_secs();
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, wait, API_DEFAULT_VERSION)?;
        Ok(Self(ask(docker.negotiate_version()).await?))
    }

    /// The engine's version.
    pub(super) async fn version(&self) -> Answer<String> {
        Ok(ask(self.0.version()).await?.version.unwrap_or_default())
    }

    /// The volumes that an image asks for.
    pub(super) async fn image_volumes(&self, image: &str) -> Answer<Vec<String>> {
        let found = ask(self.0.inspect_image(image)).await?;
        Ok(found.config.and_then(|config| config.volumes).unwrap_or_default())
    }

    /// Creates a container: its id.
    pub(super) async fn create(&self, name: &str, body: ContainerCreateBody) -> Answer<String> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        Ok(ask(self.0.create_container(Some(options), body)).await?.id)
    }

    /// Its output from the beginning, and its standard input.
    pub(super) async fn attach(&self, id: &str, stdin: bool) -> Answer<AttachContainerResults> {
        let options = AttachContainerOptions {
            stream: true,
            stdout: true,
            stderr: true,
            stdin,
            ..Default::default()
        };
        ask(self.0.attach_container(id, Some(options))).await
    }

    pub(super) async fn start(&self, id: &str) -> Answer<()> {
        ask(self.0.start_container(id, None)).await
    }

    pub(super) async fn kill(&self, id: &str, signal: &str) -> Answer<()> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        ask(self.0.kill_container(id, Some(options))).await
    }

    /// What a container uses, once a second.
    pub(super) fn stats(
        &self,
        id: &str,
    ) -> impl Stream<Item = Result<ContainerStatsResponse, Error>> + use<> {
        self.0.stats(id, Some(StatsOptions { stream: true, one_shot: false }))
    }

    /// Waits for the end of a container; `None` when it was not the end after all.
    pub(super) async fn wait(&self, id: &str) -> Answer<Option<End>> {
        let options = WaitContainerOptions { condition: "not-running".into() };
        match Box::pin(self.0.wait_container(id, Some(options))).next().await {
            // An exit code above zero comes as an error.
            Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })) => self.end(id).await,
            Some(Err(error)) => Err(error.into()),
            None => Err(Trouble::Away("it closed the connection".into())),
        }
    }

    async fn end(&self, id: &str) -> Answer<Option<End>> {
        let state = ask(self.0.inspect_container(id, None)).await?.state;
        let state = state.ok_or_else(|| Trouble::Failed("it tells no state".into()))?;
        if state.running == Some(true) {
            return Ok(None);
        }
        Ok(Some(End {
            exit: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
        }))
    }

    /// The containers of Jetmill, running or not, that a filter finds.
    pub(super) async fn list(&self, filters: HashMap<String, Vec<String>>) -> Answer<Vec<Found>> {
        let options =
            ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let found = ask(self.0.list_containers(Some(options))).await?;
        let read = |c: bollard::models::ContainerSummary| {
            let name = c.names.and_then(|names| names.into_iter().next()).unwrap_or_default();
            Some(Found {
                id: c.id?,
                owner: Owner::read(&c.labels?)?,
                name: name.trim_start_matches('/').to_owned(),
            })
        };
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Ends a container and removes it with its volumes; returns once it is gone.
    pub(super) async fn remove(&self, id: &str) -> Answer<()> {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        let end = Instant::now() + limits::ENGINE_WAIT;
        loop {
            match ask(self.0.remove_container(id, Some(options.clone()))).await {
                Ok(()) | Err(Trouble::Missing(_)) => return Ok(()),
                // Somebody else removes it at the moment.
                Err(Trouble::Conflict(_)) if Instant::now() < end => sleep(AGAIN).await,
                Err(trouble) => return Err(trouble),
            }
        }
    }
}
