//! The one place for how Convoy speaks gRPC: addresses, sockets, windows, limits and deadlines.
//!
//! Both ends of a link must agree on windows and message limits, and a setting that one side lacks
//! costs speed without an error; so neither role sets any of them by itself. What is spoken over
//! these connections is none of this module's business.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use tokio::net::{TcpListener, lookup_host};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use crate::exit;
use crate::failure::Explain;

/// Largest message of the control plane, in bytes.
pub const CONTROL_MESSAGE_LIMIT: usize = 4 << 20;
/// What a ring message may hold beside its chunk, in bytes.
pub const RING_MESSAGE_SLACK: usize = 4 << 10;
/// HTTP/2 window of a stream and of a connection, in bytes: enough for a fat link's delay.
const WINDOW: u32 = 64 << 20;
/// Largest HTTP/2 frame, in bytes.
const FRAME: u32 = 1 << 20;
/// A connection on which nothing arrived for so long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// `host:port`; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The name or number of the machine, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 takes a free one when bound.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All socket addresses that the host's name stands for.
    ///
    /// # Errors
    /// [`RpcError::Resolve`] if there is none.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, RpcError> {
        let error = |reason: String| RpcError::Resolve { address: self.clone(), reason };
        let found: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|cause| error(cause.to_string()))?
            .collect();
        if found.is_empty() { Err(error("the name has no address".to_owned())) } else { Ok(found) }
    }

    /// Whether everything that this address stands for is reachable from this machine alone.
    ///
    /// # Errors
    /// [`RpcError::Resolve`] if the host's name has no address.
    pub async fn is_loopback(&self) -> Result<bool, RpcError> {
        Ok(self.resolve().await?.iter().all(|it| is_loopback(it.ip())))
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl FromStr for Address {
    type Err = RpcError;

    /// Takes `host:port`, `[v6]:port` and the same behind `http://`.
    fn from_str(text: &str) -> Result<Self, RpcError> {
        let error = |reason| RpcError::BadAddress { text: text.to_owned(), reason };
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| error("it has no port"))?;
        let port = port.parse().map_err(|_| error("its port is not a number of 0 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(inside) => {
                inside.parse::<std::net::Ipv6Addr>().map_err(|_| error("no IPv6 address"))?;
                inside
            }
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if host.is_empty() {
            return Err(error("it has no host"));
        }
        if !host.chars().all(plain) && host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(error("its host is neither a name nor a number"));
        }
        if host.contains(':') && !rest.starts_with('[') {
            return Err(error("an IPv6 address needs brackets"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl From<SocketAddr> for Address {
    fn from(it: SocketAddr) -> Self {
        Self { host: it.ip().to_string(), port: it.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A server with Convoy's windows, frames and keepalive; add services, then serve a [`bind`].
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
}

/// Listens on `address` and says which address that became (port 0 takes a free one).
///
/// # Errors
/// [`RpcError::AddrInUse`] if another program listens there, [`RpcError::Bind`] otherwise,
/// [`RpcError::Resolve`] if the host's name has no address.
pub async fn bind(address: &Address) -> Result<(SocketAddr, TcpIncoming), RpcError> {
    let mut last = None;
    for candidate in address.resolve().await? {
        match TcpListener::bind(candidate).await {
            Ok(listener) => {
                let bound = listener
                    .local_addr()
                    .map_err(|source| RpcError::Bind { address: address.clone(), source })?;
                return Ok((bound, TcpIncoming::from(listener).with_nodelay(Some(true))));
            }
            Err(error) => last = Some(error),
        }
    }
    let source = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(if source.kind() == io::ErrorKind::AddrInUse {
        RpcError::AddrInUse { address: address.clone() }
    } else {
        RpcError::Bind { address: address.clone(), source }
    })
}

/// The client side of [`server`].
///
/// # Errors
/// [`RpcError::BadAddress`] if the address is no URI's authority.
pub fn endpoint(address: &Address) -> Result<Endpoint, RpcError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| {
        RpcError::BadAddress { text: address.to_string(), reason: "it fits in no URL" }
    })?;
    Ok(endpoint
        .connect_timeout(ATTEMPT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .buffer_size(64)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// Connects once, by a connection that is lost when what was sent is not acknowledged for `silence`.
///
/// Left to itself the kernel sends again for a quarter of an hour, with pauses that double: a way that
/// is open again after seconds would be found so only seconds later (TCP_USER_TIMEOUT of tcp(7), after
/// RFC 5482).
///
/// # Errors
/// Why there is no connection, in words.
pub async fn connect_once(address: &Address, silence: Duration) -> Result<Channel, String> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(ATTEMPT));
    connector.set_tcp_user_timeout(Some(silence));
    let endpoint = endpoint(address).map_err(|error| error.to_string())?;
    endpoint.connect_with_connector(connector).await.map_err(|error| innermost(&error))
}

/// Connects to `who` at `address`, trying again until `within` has passed.
///
/// # Errors
/// [`RpcError::Unreachable`] with the last attempt's reason, or [`RpcError::BadAddress`].
pub async fn connect(who: &str, address: &Address, within: Duration) -> Result<Channel, RpcError> {
    let endpoint = endpoint(address)?;
    let until = Instant::now() + within;
    let mut pause = Pause::default();
    let mut reason = "no answer".to_owned();
    loop {
        match timeout(until.saturating_duration_since(Instant::now()), endpoint.connect()).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => reason = innermost(&error),
            Err(_) => {}
        }
        if !pause.wait(until).await {
            let (who, address) = (who.to_owned(), address.clone());
            return Err(RpcError::Unreachable { who, address, after: within, reason });
        }
    }
}

/// Pauses between attempts: each twice the last, from 50 ms to 1 s.
#[derive(Debug)]
pub struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: Duration::from_millis(50) }
    }
}

impl Pause {
    /// Sleeps before another attempt; false if `until` would have passed by then.
    pub async fn wait(&mut self, until: Instant) -> bool {
        if Instant::now() + self.next >= until {
            return false;
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(1));
        true
    }
}

/// The text of the cause at the bottom: the transport wraps `connection refused` in several layers.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What goes wrong before a byte of a call is exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The text is no address.
    #[error("`{text}` is not a valid address: {reason}")]
    BadAddress {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The host's name stands for nothing.
    #[error("cannot resolve the host of {address}: {reason}")]
    Resolve {
        /// What was looked up.
        address: Address,
        /// What the resolver said.
        reason: String,
    },
    /// Another program listens there.
    #[error("cannot listen on {address}: port {} is taken", address.port())]
    AddrInUse {
        /// Where it was tried.
        address: Address,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where it was tried.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("cannot reach {who} at {address} after {after:?}: {reason}")]
    Unreachable {
        /// Who should be there, e.g. `the coordinator`.
        who: String,
        /// Where it should be.
        address: Address,
        /// How long it was tried.
        after: Duration,
        /// Why the last attempt failed.
        reason: String,
    },
}

impl Explain for RpcError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadAddress { .. } => {
                "give host:port, such as 127.0.0.1:4600 or [::1]:4600".to_owned()
            }
            Self::Resolve { .. } => "check the host's name, or give its number".to_owned(),
            Self::AddrInUse { address } => format!(
                "stop the program that listens on port {} (`ss -ltnp` names it), or choose another \
                 port; port 0 takes a free one",
                address.port()
            ),
            Self::Bind { .. } => {
                "the address must belong to this machine, and ports below 1024 need privileges"
                    .to_owned()
            }
            Self::Unreachable { who, .. } => {
                format!("check that {who} is running and that no firewall is in between")
            }
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::BadAddress { .. } => exit::BAD_INPUT,
            _ => exit::UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_printed_as_they_are_read() {
        for text in ["127.0.0.1:80", "[::1]:4600", "host-1.example:0"] {
            assert_eq!(address(text).to_string(), text);
        }
        assert_eq!(address("http://localhost:4600/"), address("localhost:4600"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for text in ["", "localhost", ":80", "a:99999", "::1:80", "[zz]:1", "a b:1", "x/y:1"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(matches!(error, RpcError::BadAddress { .. }), "{text}");
            assert_eq!(error.exit_code(), exit::BAD_INPUT);
        }
    }

    #[tokio::test]
    async fn loopback_is_known_by_number_and_by_name() {
        for text in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
            assert!(address(text).is_loopback().await.unwrap(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            assert!(!address(text).is_loopback().await.unwrap(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (bound, _held) = bind(&address("127.0.0.1:0")).await.unwrap();
        let error = bind(&Address::from(bound)).await.unwrap_err();
        assert!(matches!(error, RpcError::AddrInUse { .. }), "{error}");
        assert!(error.to_string().contains(&format!("port {} is taken", bound.port())));
        assert!(error.hint().unwrap().contains(&bound.port().to_string()));
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_named_with_the_time_that_was_waited() {
        // Bound and dropped: nobody listens there now.
        let (bound, held) = bind(&address("127.0.0.1:0")).await.unwrap();
        drop(held);
        let within = Duration::from_millis(200);
        let error = connect("worker b", &bound.into(), within).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot reach worker b at 127.0.0.1:"), "{error}");
        assert!(error.to_string().contains("after 200ms"), "{error}");
        assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    }
}
