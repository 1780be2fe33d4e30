//! The ways between a drilled job's processes, and how they are cut.
//!
//! ```text
//! proxies      left neighbour --[ring proxy of worker i]--> worker i --[line proxy of i]--> coordinator
//! namespaces   every worker on a host of its own, whose packets a filter drops or resets
//! both         all --[store proxy]--> S3 server
//! ```
//!
//! Hosts of their own need rights; proxies are what there is without. Where nothing is to be cut, the
//! processes are connected as `convoy launch` connects them.

mod hosts;
mod namespaces;
mod proxy;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::runtime::Handle;

use self::namespaces::Namespaces;
use self::proxy::Proxy;
use super::error::DrillError;
use super::plan::Way;

/// Variables by which a store's place is known, of which the first that is set counts.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// What cuts are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cutter {
    /// Network namespaces where they are allowed, proxies elsewhere.
    Auto,
    /// A host of its own for each worker, whose packets are dropped: needs root, `ip` and `nft`.
    Namespaces,
    /// A TCP proxy on loopback before each worker.
    Proxies,
}

/// A way that can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// Whoever calls that worker's ring, and the worker.
    Ring(usize),
    /// That worker and the coordinator.
    Line(usize),
    /// Everybody and the store.
    Store,
}

/// Which ways a drill means to cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Cuts {
    /// Those between workers.
    pub(super) ring: bool,
    /// Those to the coordinator.
    pub(super) line: bool,
    /// That to the store.
    pub(super) store: bool,
}

/// The S3 server of the job, as this process's variables name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Everything is in folders.
    None,
    /// A plain http:// address, before which a proxy can stand.
    Plain(SocketAddr),
    /// Another one.
    Other,
}

impl Endpoint {
    /// Looks at the variables.
    pub(super) async fn here() -> Self {
        let url = ENDPOINTS.iter().find_map(|name| std::env::var(name).ok());
        let url = url.and_then(|it| url::Url::parse(&it).ok()).filter(|it| it.scheme() == "http");
        let Some(url) = url else { return Self::Other };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Self::Other;
        };
        let found = tokio::net::lookup_host((host, port)).await;
        found.ok().and_then(|mut it| it.next()).map_or(Self::Other, Self::Plain)
    }
}

/// How the processes of one job reach each other.
#[derive(Debug)]
pub(super) struct Network {
    hosts: Hosts,
    store: Option<Proxy>,
}

/// Where the processes are.
#[derive(Debug)]
enum Hosts {
    /// All on loopback, behind a proxy where a way is to be cut.
    Together { rings: Vec<Proxy>, lines: Vec<Proxy> },
    /// Each on its own.
    Apart(Box<Namespaces>),
}

impl Network {
    /// Everybody on loopback, and nothing in between.
    pub(super) fn plain() -> Self {
        let hosts = Hosts::Together { rings: Vec::new(), lines: Vec::new() };
        Self { hosts, store: None }
    }

    /// A network in which those ways can be cut; and why it is not made of namespaces, if it should
    /// have been. The tasks of its proxies run on `runtime`.
    ///
    /// # Errors
    /// When namespaces are asked for and not to be had, or a proxy cannot listen.
    pub(super) async fn new(
        cuts: &Cuts,
        cutter: Cutter,
        endpoint: Endpoint,
        workers: usize,
        runtime: &Handle,
    ) -> Result<(Self, Option<String>), DrillError> {
        let between_processes = cuts.ring || cuts.line;
        let apart = match (cutter, endpoint) {
            (Cutter::Proxies, _) => None,
            (Cutter::Auto, _) if !between_processes => None,
            (_, Endpoint::Other) => Some(Err("from them the store is out of reach".to_owned())),
            _ => Some(Namespaces::new(workers).await),
        };
        let (apart, reason) = match apart {
            Some(Ok(apart)) => (Some(apart), None),
            Some(Err(reason)) if cutter == Cutter::Namespaces => {
                return Err(DrillError::NoNamespaces { reason });
            }
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let host = apart.as_ref().map_or(loopback, Namespaces::coordinator);
        let store = match endpoint {
            Endpoint::Plain(upstream) if cuts.store || apart.is_some() => {
                let it = proxy(host, runtime).await?;
                it.lead_to(upstream);
                Some(it)
            }
            _ => None,
        };
        let hosts = match apart {
            Some(apart) => Hosts::Apart(Box::new(apart)),
            None => {
                let mut both = [Vec::new(), Vec::new()];
                for (proxies, wanted) in both.iter_mut().zip([cuts.ring, cuts.line]) {
                    for _ in 0..if wanted { workers } else { 0 } {
                        proxies.push(proxy(host, runtime).await?);
                    }
                }
                let [rings, lines] = both;
                Hosts::Together { rings, lines }
            }
        };
        Ok((Self { hosts, store }, reason))
    }

    /// What cuts are made with, as reports call it; none where nothing can be cut.
    pub(super) fn cutter(&self) -> Option<&'static str> {
        match &self.hosts {
            Hosts::Apart(_) => Some("namespaces"),
            Hosts::Together { rings, lines } => {
                let any = !rings.is_empty() || !lines.is_empty() || self.store.is_some();
                any.then_some("proxies")
            }
        }
    }

    /// Tells a coordinator where to listen, and where the store is.
    pub(super) fn coordinator(&self, command: &mut Command, listened: Option<SocketAddr>) {
        let host = match &self.hosts {
            Hosts::Together { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Hosts::Apart(apart) => apart.coordinator(),
        };
        // It keeps its port for all its lives.
        let at = listened.unwrap_or(SocketAddr::new(host, 0));
        command.args(["--bind", &at.to_string()]);
        if !host.is_loopback() {
            command.arg("--insecure");
        }
        self.show_store(command);
    }

    /// How that worker's program is executed; its arguments come behind those here.
    pub(super) fn worker(&self, index: usize, program: &Path) -> Command {
        let mut command = match &self.hosts {
            Hosts::Together { .. } => Command::new(program),
            Hosts::Apart(apart) => apart.on_host(index, program),
        };
        self.show_store(&mut command);
        command
    }

    /// Where that worker reaches a coordinator that listens there.
    pub(super) fn line_to(&self, index: usize, coordinator: SocketAddr) -> SocketAddr {
        match &self.hosts {
            Hosts::Together { lines, .. } => lines.get(index).map_or(coordinator, Proxy::address),
            Hosts::Apart(_) => coordinator,
        }
    }

    /// What that worker is told of its ring's place.
    pub(super) fn ring_arguments(&self, index: usize) -> Vec<String> {
        match &self.hosts {
            Hosts::Together { rings, .. } => rings.get(index).map_or(Vec::new(), |proxy| {
                vec!["--advertise".to_owned(), proxy.address().to_string()]
            }),
            Hosts::Apart(apart) => {
                let at = apart.ring(index).to_string();
                vec!["--ring-bind".to_owned(), at, "--insecure".to_owned()]
            }
        }
    }

    fn show_store(&self, command: &mut Command) {
        if let Some(proxy) = &self.store {
            ENDPOINTS.iter().for_each(|name| {
                command.env_remove(name);
            });
            command.env("AWS_ENDPOINT_URL", format!("http://{}", proxy.address()));
            command.env("AWS_ALLOW_HTTP", "true");
        }
    }

    /// The coordinator listens here.
    pub(super) fn coordinator_listens(&mut self, at: SocketAddr) {
        match &mut self.hosts {
            Hosts::Together { lines, .. } => lines.iter().for_each(|proxy| proxy.lead_to(at)),
            Hosts::Apart(apart) => apart.coordinator_listens(at),
        }
    }

    /// That worker's ring listens here.
    pub(super) fn ring_listens(&self, worker: usize, at: SocketAddr) {
        if let Hosts::Together { rings, .. } = &self.hosts
            && let Some(proxy) = rings.get(worker)
        {
            proxy.lead_to(at);
        }
    }

    /// Cuts the way until it is mended, which must not be sooner than the time that this gives.
    ///
    /// # Errors
    /// When the system does not do it.
    pub(super) async fn cut(&self, between: Between, way: Way) -> Result<Duration, DrillError> {
        if let (Hosts::Apart(apart), Between::Ring(_) | Between::Line(_)) = (&self.hosts, between) {
            return apart.cut(between, way).await;
        }
        if let Some(proxy) = self.proxy(between) {
            proxy.cut(way);
        }
        Ok(Duration::ZERO)
    }

    /// Opens the way again.
    ///
    /// # Errors
    /// When the system does not do it.
    pub(super) async fn mend(&self, between: Between) -> Result<(), DrillError> {
        if let (Hosts::Apart(apart), Between::Ring(_) | Between::Line(_)) = (&self.hosts, between) {
            return apart.mend(between).await;
        }
        if let Some(proxy) = self.proxy(between) {
            proxy.mend();
        }
        Ok(())
    }

    fn proxy(&self, between: Between) -> Option<&Proxy> {
        match (between, &self.hosts) {
            (Between::Store, _) => self.store.as_ref(),
            (Between::Ring(worker), Hosts::Together { rings, .. }) => rings.get(worker),
            (Between::Line(worker), Hosts::Together { lines, .. }) => lines.get(worker),
            (_, Hosts::Apart(_)) => None,
        }
    }
}

async fn proxy(host: IpAddr, runtime: &Handle) -> Result<Proxy, DrillError> {
    let started = Proxy::start(host, runtime).await;
    started.map_err(|source| DrillError::System { what: "start a proxy", source })
}
