//! A TCP proxy between a process and NATS, which can hold the traffic, cut it, and deliver work
//! twice.
//!
//! It reads the server's side of the protocol, message by message, so that a message is never torn;
//! what it cannot read (TLS) it hands on as bytes.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::{Buf as _, BytesMut};
use common::subject;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinSet,
};

/// Deliveries that are remembered, the newest ones.
const DELIVERIES_MAX: usize = 256;
/// The longest line of the protocol that is waited for.
const LINE_MAX: usize = 64 * 1024;

/// What becomes of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It passes.
    Open,
    /// It waits, and connections stay open: a network that is away.
    Held,
    /// Connections are closed, and new ones are refused.
    Cut,
}

#[derive(Debug, Default)]
struct Shared {
    /// Work that is still to be delivered twice.
    twice: AtomicU32,
    doubled: AtomicU32,
    /// Where the newest deliveries of work are acknowledged.
    deliveries: Mutex<VecDeque<String>>,
}

/// A proxy; ends with its drop.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback for connections to `upstream`, `host:port`.
    pub async fn start(upstream: String) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (mode, watched) = watch::channel(Mode::Open);
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream, watched, shared.clone()));
        Ok(Self { address, mode, shared, _tasks: tasks })
    }

    /// Where clients connect, with a login such as `user:password@`, or none.
    pub fn url(&self, login: &str) -> String {
        format!("nats://{login}{}", self.address)
    }

    /// Lets the traffic pass, or not.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What becomes of the traffic now.
    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Delivers the next messages of the work queue twice.
    pub fn deliver_twice(&self, messages: u32) {
        self.shared.twice.store(messages, Ordering::Relaxed);
    }

    /// How many were delivered twice so far.
    pub fn doubled(&self) -> u32 {
        self.shared.doubled.load(Ordering::Relaxed)
    }

    /// Where the newest deliveries of work are acknowledged, oldest first.
    pub fn deliveries(&self) -> Vec<String> {
        let kept = self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }
}

async fn accept(
    listener: TcpListener,
    upstream: String,
    mode: watch::Receiver<Mode>,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (upstream, mode, shared) = (upstream.clone(), mode.clone(), shared.clone());
                connections.spawn(async move {
                    // Whoever breaks off is heard of by the other side: it is closed as well.
                    let _ = connection(client, upstream, mode, shared).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    client: TcpStream,
    upstream: String,
    mut mode: watch::Receiver<Mode>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    if *mode.borrow_and_update() == Mode::Cut {
        return Ok(());
    }
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = up(from_client, to_server, mode.clone());
    let down = down(from_server, to_client, mode.clone(), &shared);
    // Dropping the others closes both sides.
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => Ok(()),
    }
}

/// Waits while the traffic is held.
async fn pass(mode: &mut watch::Receiver<Mode>) -> io::Result<()> {
    let open = mode.wait_for(|mode| *mode == Mode::Open).await;
    open.map(drop).map_err(|_| io::Error::other("the proxy has ended"))
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        pass(&mut mode).await?;
        to.write_all(&buffer).await?;
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    shared: &Shared,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(256 * 1024);
    let mut readable = true;
    loop {
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        pass(&mut mode).await?;
        loop {
            let length = if readable { frame(&buffer) } else { Frame::Unreadable };
            match length {
                Frame::Incomplete => break,
                Frame::Whole { length, reply } => {
                    let bytes = buffer.split_to(length);
                    to.write_all(&bytes).await?;
                    if let Some(reply) = reply
                        && shared.note(reply)
                    {
                        to.write_all(&bytes).await?;
                    }
                }
                Frame::Unreadable => {
                    readable = false;
                    to.write_all(&buffer).await?;
                    buffer.advance(buffer.len());
                    break;
                }
            }
        }
    }
}

impl Shared {
    /// Notes a delivery of work; says whether it is to be delivered once more.
    fn note(&self, reply: String) -> bool {
        let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        if deliveries.len() >= DELIVERIES_MAX {
            deliveries.pop_front();
        }
        deliveries.push_back(reply);
        let twice = self
            .twice
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok();
        self.doubled.fetch_add(u32::from(twice), Ordering::Relaxed);
        twice
    }
}

/// What a delivery of work says about itself where it is acknowledged: how often it was delivered,
/// and its place in the stream.
pub fn delivery(reply: &str) -> Option<(u64, u64)> {
    let mut words = reply.split('.').skip_while(|word| *word != subject::EXECUTIONS).skip(2);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

enum Frame {
    Incomplete,
    Whole {
        length: usize,
        /// Where it is acknowledged, when it is work.
        reply: Option<String>,
    },
    Unreadable,
}

/// The next message of the server: `MSG subject sid [reply] bytes`, `HMSG … head bytes`, or a line.
fn frame(buffer: &[u8]) -> Frame {
    let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") else {
        return if buffer.len() > LINE_MAX { Frame::Unreadable } else { Frame::Incomplete };
    };
    let Some(line) = buffer.get(..end).and_then(|line| std::str::from_utf8(line).ok()) else {
        return Frame::Unreadable;
    };
    let mut words = line.split_ascii_whitespace();
    let verb = words.next().unwrap_or_default();
    let words: Vec<_> = words.collect();
    let has_body = match verb {
        "MSG" | "HMSG" => true,
        "INFO" | "PING" | "PONG" | "+OK" | "-ERR" => false,
        _ => return Frame::Unreadable,
    };
    if !has_body {
        return Frame::Whole { length: end + 2, reply: None };
    }
    let Some(body) = words.last().and_then(|bytes| bytes.parse::<usize>().ok()) else {
        return Frame::Unreadable;
    };
    let length = end + 2 + body + 2;
    if buffer.len() < length {
        return Frame::Incomplete;
    }
    let work = format!(".{}.", subject::EXECUTIONS);
    let is_work = |word: &&&str| word.starts_with("$JS.ACK.") && word.contains(&work);
    let reply = words.iter().find(is_work).map(|word| (*word).to_owned());
    Frame::Whole { length, reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &[u8]) -> (usize, Option<String>) {
        match frame(text) {
            Frame::Whole { length, reply } => (length, reply),
            Frame::Incomplete | Frame::Unreadable => panic!("not whole"),
        }
    }

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(whole(b"PING\r\nMSG"), (6, None));
        let work = b"MSG a.b 1 $JS.ACK.EXECUTIONS.queue-x.1.2.3.4.5 3\r\nabc\r\n+OK\r\n";
        let (length, reply) = whole(work);
        assert!(work[length..].starts_with(b"+OK"));
        assert_eq!(reply.as_deref(), Some("$JS.ACK.EXECUTIONS.queue-x.1.2.3.4.5"));
        assert_eq!(delivery("$JS.ACK.EXECUTIONS.queue-x.1.2.3.4.5"), Some((1, 2)));
        assert!(matches!(frame(b"MSG a 1 3\r\nab"), Frame::Incomplete));
        assert!(matches!(frame(b"MSG a 1 "), Frame::Incomplete));
        assert!(matches!(frame(b"\x16\x03\x01\r\n"), Frame::Unreadable));
    }
}
