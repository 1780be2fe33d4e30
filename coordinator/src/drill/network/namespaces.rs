//! Every worker on a host of its own, as on a real network: packets that are dropped, with the kernel's
//! retransmissions, and resets that it makes.
//!
//! ```text
//! drill, coordinator, proxy of the store          worker 0             worker 1
//!        198.18.N.1                               198.18.N.10          198.18.N.11
//!            |                                        |  filter            |  filter
//!            '---------------- bridge, in a namespace of its own ----------'
//! ```
//!
//! The addresses are of the range for tests of networks (RFC 2544). Where the drill runs, one interface
//! is there for its time. The filter of a worker's host has a chain for its ring and one for its line
//! to the coordinator, both empty while the ways are open.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use super::Between;
use super::hosts::{self, Host};
use crate::drill::error::DrillError;
use crate::drill::plan::Way;

/// Where every worker's ring listens, on its own host.
const RING_PORT: u16 = 7000;
/// The last part of the first worker's address.
const FIRST: u8 = 10;
/// A packet that is sent within this time meets a reset; of a silent connection nobody is told.
const RESET: Duration = Duration::from_secs(1);
/// For a first connection between two hosts.
const REACH: Duration = Duration::from_secs(3);

/// Both chains see what arrives and what leaves. A kernel that cannot reset says so at once.
const FILTER: &str = "table inet convoy {
  chain ring { }
  chain line { }
  chain arriving { type filter hook input priority 0; jump ring; jump line; }
  chain leaving { type filter hook output priority 0; jump ring; jump line; }
}
add rule inet convoy ring tcp flags & rst == 0 reject with tcp reset
flush chain inet convoy ring
";

/// The hosts of one job's workers.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Third part of all addresses.
    net: u8,
    workers: Vec<Host>,
    /// Has the bridge.
    hub: Host,
    listens: Option<SocketAddr>,
}

impl Namespaces {
    /// Hosts for so many workers, at most 64, that reach this one and each other.
    ///
    /// # Errors
    /// Why there can be none, in words.
    pub(super) async fn new(workers: usize) -> Result<Self, String> {
        let hub = Host::new().await?;
        let net = free_net().await?;
        let (here, outside) = (hub.pid(), format!("convoy{}", hub.pid()));
        hub.ip(&["link add bridge type bridge".to_owned(), "link set bridge up".to_owned()])
            .await?;
        hosts::ip_here(&[
            format!("link add {outside} type veth peer name outside netns {here}"),
            format!("address add 198.18.{net}.1/24 dev {outside}"),
            format!("link set {outside} up"),
        ])
        .await?;
        hub.ip(&["link set outside master bridge up".to_owned()]).await?;
        let mut all = Self { net, workers: Vec::new(), hub, listens: None };
        for index in 0..workers {
            let host = Host::new().await?;
            all.hub
                .ip(&[
                    format!("link add w{index} type veth peer name eth0 netns {}", host.pid()),
                    format!("link set w{index} master bridge up"),
                ])
                .await?;
            host.ip(&[
                "link set lo up".to_owned(),
                format!("address add {}/24 dev eth0", all.ring(index).ip()),
                "link set eth0 up".to_owned(),
            ])
            .await?;
            host.nft(FILTER).await?;
            all.workers.push(host);
        }
        all.reach().await?;
        Ok(all)
    }

    /// Whether a worker's host reaches this one: a firewall may be in the way.
    async fn reach(&self) -> Result<(), String> {
        let Some(host) = self.workers.first() else { return Ok(()) };
        let listener = TcpListener::bind((self.coordinator(), 0)).await;
        let listener = listener.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = host.command(&this);
        command.args(["status", &address.to_string()]).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What it wants to know is nothing to us; that it asks is.
        let _asking = command.spawn().map_err(|error| format!("nsenter: {error}"))?;
        let reached = timeout(REACH, listener.accept()).await;
        reached
            .map_err(|_| "a firewall lets nothing through from them".to_owned())?
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Where the coordinator and the proxy of the store listen.
    pub(super) fn coordinator(&self) -> IpAddr {
        Ipv4Addr::new(198, 18, self.net, 1).into()
    }

    /// Where that worker's ring listens.
    pub(super) fn ring(&self, worker: usize) -> SocketAddr {
        let last = FIRST + u8::try_from(worker).unwrap_or_default();
        (Ipv4Addr::new(198, 18, self.net, last), RING_PORT).into()
    }

    /// A command that executes the program on that worker's host.
    pub(super) fn on_host(&self, worker: usize, program: &Path) -> Command {
        match self.workers.get(worker) {
            Some(host) => host.command(program),
            None => Command::new(program),
        }
    }

    /// The coordinator listens here.
    pub(super) fn coordinator_listens(&mut self, at: SocketAddr) {
        self.listens = Some(at);
    }

    /// Cuts a way for at least the time that this gives.
    pub(super) async fn cut(&self, between: Between, way: Way) -> Result<Duration, DrillError> {
        let Some((host, chain, server)) = self.end_of(between) else { return Ok(Duration::ZERO) };
        let verdict = match way {
            Way::BlackHole => "drop",
            // A reset must not meet the rule that made it.
            _ => "tcp flags & rst == 0 reject with tcp reset",
        };
        let (ip, port) = (server.ip(), server.port());
        let rules = format!(
            "flush chain inet convoy {chain}\n\
             add rule inet convoy {chain} ip daddr {ip} tcp dport {port} {verdict}\n\
             add rule inet convoy {chain} ip saddr {ip} tcp sport {port} {verdict}\n"
        );
        host.nft(&rules).await.map_err(|reason| DrillError::Filter { reason })?;
        Ok(if way == Way::Reset { RESET } else { Duration::ZERO })
    }

    /// Opens a way again.
    pub(super) async fn mend(&self, between: Between) -> Result<(), DrillError> {
        let Some((host, chain, _)) = self.end_of(between) else { return Ok(()) };
        let rules = format!("flush chain inet convoy {chain}\n");
        host.nft(&rules).await.map_err(|reason| DrillError::Filter { reason })
    }

    /// The host that cuts it, the filter's chain, and who is called on that way.
    fn end_of(&self, between: Between) -> Option<(&Host, &'static str, SocketAddr)> {
        match between {
            Between::Ring(worker) => Some((self.workers.get(worker)?, "ring", self.ring(worker))),
            Between::Line(worker) => Some((self.workers.get(worker)?, "line", self.listens?)),
            Between::Store => None,
        }
    }
}

/// A net of the range for tests that this host is not in.
async fn free_net() -> Result<u8, String> {
    // Drills that start at once begin at different ones.
    let start = std::process::id() as u8;
    for offset in 0..=u8::MAX {
        let net = start.wrapping_add(offset);
        if !hosts::is_taken(&format!("198.18.{net}.0/24")).await? {
            return Ok(net);
        }
    }
    Err("198.18.0.0/16 is in use".to_owned())
}
