//! A TCP proxy whose way can be cut: refused, reset, black-holed, slowed down, or answered in place of
//! the server.
//!
//! ```text
//! client --> listener --(state)--> upstream, which may change
//! ```
//!
//! It forwards bytes and understands none of them. Every connection watches the proxy's state, so a
//! cut reaches those that are open. A connection over a black hole is not closed: what was sent waits
//! in the sender's buffers, as on a network that loses every packet, and goes on when the way is open
//! again. The one thing that it says by itself is HTTP's 503, to whoever asks a store.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::drill::plan::Way;

/// Bytes that are forwarded at a time.
const PIECE: usize = 64 * 1024;
/// For the upstream to take a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// What a slow way lets through at a time, and how often.
const TRICKLE: (usize, Duration) = (8 * 1024, Duration::from_millis(50));
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What the way is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// None: open.
    cut: Option<Way>,
    /// How often connections were reset; one that began before a reset does not survive it.
    resets: u64,
    /// Where connections lead.
    upstream: Option<SocketAddr>,
}

/// A listening proxy; connections and listener end with it.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Listens on a free port of `host`; its tasks run on `runtime`.
    ///
    /// # Errors
    /// When no port can be had.
    pub(super) async fn start(host: IpAddr, runtime: &Handle) -> io::Result<Self> {
        let listening = runtime.spawn(TcpListener::bind((host, 0)));
        let listener = listening.await.map_err(io::Error::other)??;
        let address = listener.local_addr()?;
        let (state, view) = watch::channel(State::default());
        let accepting = runtime.spawn(accept(listener, view)).abort_handle();
        Ok(Self { address, state, accepting })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections lead from now on.
    pub(super) fn lead_to(&self, upstream: SocketAddr) {
        self.state.send_modify(|it| it.upstream = Some(upstream));
    }

    /// Cuts the way until [`Self::mend`]; a reset needs no mending.
    pub(super) fn cut(&self, way: Way) {
        self.state.send_modify(|it| match way {
            Way::Reset => it.resets += 1,
            Way::Refuse | Way::Unavailable => {
                it.resets += 1;
                it.cut = Some(way);
            }
            Way::BlackHole | Way::Slow => it.cut = Some(way),
        });
    }

    /// Opens the way again.
    pub(super) fn mend(&self) {
        self.state.send_modify(|it| it.cut = None);
    }
}

async fn accept(listener: TcpListener, view: watch::Receiver<State>) {
    // They end with the listener.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => { connections.spawn(serve(client, view.clone())); }
                // Out of file descriptors, for one; it may be over soon.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn serve(mut client: TcpStream, mut view: watch::Receiver<State>) {
    let began = *view.borrow_and_update();
    match began.cut {
        Some(Way::Refuse) => return reset(client),
        Some(Way::Unavailable) => return unavailable(&mut client).await,
        _ => {}
    }
    // In a black hole nobody hears of the connection.
    if opened(&mut view, began.resets).await.is_none() {
        return reset(client);
    }
    let Some(upstream) = began.upstream else { return reset(client) };
    let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect(upstream)).await else {
        return reset(client);
    };
    // Small messages must not wait for one another, as they would not without a proxy.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = forward(from_client, to_server, view.clone(), began.resets);
        let back = forward(from_server, to_client, view.clone(), began.resets);
        // One direction may end before the other; a cut ends both.
        let both = async { tokio::join!(there, back) };
        tokio::select! {
            _ = both => false,
            _ = view.wait_for(|it| it.resets != began.resets) => true,
        }
    };
    if cut {
        reset(client);
        reset(server);
    }
}

/// Waits while the way is a black hole; none once the connection was reset.
async fn opened(view: &mut watch::Receiver<State>, resets: u64) -> Option<State> {
    let passes = |it: &State| it.resets != resets || it.cut != Some(Way::BlackHole);
    // An error means that the proxy is gone.
    let state = *view.wait_for(passes).await.ok()?;
    (state.resets == resets).then_some(state)
}

async fn forward(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut view: watch::Receiver<State>,
    resets: u64,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let Some(state) = opened(&mut view, resets).await else { return };
        let slow = state.cut == Some(Way::Slow);
        let most = if slow { TRICKLE.0 } else { PIECE };
        let read = match from.read(&mut buffer[..most]).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if slow {
            sleep(TRICKLE.1).await;
        }
        // What was read before the cut stays here until it is over.
        if opened(&mut view, resets).await.is_none() || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
    // The half-close is passed on; the other direction may have more to say.
    let _ = to.shutdown().await;
}

/// Ends a connection with a reset, as a host that refuses does.
fn reset(stream: TcpStream) {
    // Without it the connection is closed in order, which is near enough.
    let _ = stream.set_zero_linger();
}

/// Reads the head of a request and answers it.
async fn unavailable(client: &mut TcpStream) {
    let mut buffer = vec![0; PIECE];
    let answer = async {
        let mut head = Vec::new();
        while !head.windows(4).any(|it| it == b"\r\n\r\n") && head.len() < PIECE {
            match client.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => head.extend_from_slice(&buffer[..read]),
            }
        }
        let _ = client.write_all(UNAVAILABLE).await;
        let _ = client.shutdown().await;
        // A body that is still on its way must not turn the answer into a reset.
        while matches!(client.read(&mut buffer).await, Ok(read) if read > 0) {}
    };
    let _ = timeout(CONNECT, answer).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn proxy() -> Proxy {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let proxy = Proxy::start(host, &Handle::current()).await.unwrap();
        proxy.lead_to(echo().await);
        proxy
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.unwrap()
    }

    /// Whether five bytes come back within the time.
    async fn answers(stream: &mut TcpStream, within: Duration) -> io::Result<bool> {
        stream.write_all(b"hello").await?;
        let mut buffer = [0; 5];
        match timeout(within, stream.read_exact(&mut buffer)).await {
            Ok(read) => read.map(|_| &buffer == b"hello"),
            Err(_) => Ok(false),
        }
    }

    const SOON: Duration = Duration::from_secs(20);
    const NOT_SOON: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn an_open_way_carries_more_than_a_buffer_both_ways_and_passes_the_end_on() {
        let proxy = proxy().await;
        let (mut from, mut to) = connect(&proxy).await.into_split();
        let sent: Vec<u8> = (0..5 * PIECE).map(|it| it as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        timeout(SOON, from.read_to_end(&mut got)).await.unwrap().unwrap();
        writing.await.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn a_refusing_way_resets_what_is_open_and_takes_nothing_until_it_is_mended() {
        let proxy = proxy().await;
        let mut before = connect(&proxy).await;
        assert!(answers(&mut before, SOON).await.unwrap());
        proxy.cut(Way::Refuse);
        let mut byte = [0];
        let ended = timeout(SOON, before.read(&mut byte)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let mut during = connect(&proxy).await;
        let ended = timeout(SOON, during.read(&mut byte)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        proxy.mend();
        assert!(answers(&mut connect(&proxy).await, SOON).await.unwrap());
    }

    #[tokio::test]
    async fn a_black_hole_holds_what_is_sent_and_lets_it_go_on_afterwards() {
        let proxy = proxy().await;
        let mut open = connect(&proxy).await;
        assert!(answers(&mut open, SOON).await.unwrap());
        proxy.cut(Way::BlackHole);
        // One piece may be under way already when the hole opens.
        let swallowed = answers(&mut open, NOT_SOON).await.unwrap();
        let mut late = connect(&proxy).await;
        assert!(!answers(&mut late, NOT_SOON).await.unwrap());
        proxy.mend();
        let mut buffer = [0; 5];
        if !swallowed {
            timeout(SOON, open.read_exact(&mut buffer)).await.unwrap().unwrap();
        }
        timeout(SOON, late.read_exact(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer, b"hello");
        assert!(answers(&mut open, SOON).await.unwrap());
    }

    #[tokio::test]
    async fn a_reset_ends_what_is_open_and_nothing_else() {
        let proxy = proxy().await;
        let mut before = connect(&proxy).await;
        assert!(answers(&mut before, SOON).await.unwrap());
        proxy.cut(Way::Reset);
        let mut byte = [0];
        let ended = timeout(SOON, before.read(&mut byte)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        assert!(answers(&mut connect(&proxy).await, SOON).await.unwrap());
    }

    #[tokio::test]
    async fn a_slow_way_delivers_all_the_same() {
        let proxy = proxy().await;
        let mut stream = connect(&proxy).await;
        proxy.cut(Way::Slow);
        let start = Instant::now();
        let data = vec![7; 3 * TRICKLE.0];
        stream.write_all(&data).await.unwrap();
        let mut got = vec![0; data.len()];
        timeout(SOON, stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert!(got == data && start.elapsed() > 2 * TRICKLE.1);
    }

    #[tokio::test]
    async fn whoever_asks_an_unavailable_store_is_told_so_in_its_own_words() {
        let proxy = proxy().await;
        proxy.cut(Way::Unavailable);
        let mut stream = connect(&proxy).await;
        stream
            .write_all(b"PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
            .await
            .unwrap();
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    }

    #[tokio::test]
    async fn without_a_server_behind_it_a_connection_is_reset() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let proxy = Proxy::start(host, &Handle::current()).await.unwrap();
        let mut byte = [0];
        let ended = timeout(SOON, connect(&proxy).await.read(&mut byte)).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
