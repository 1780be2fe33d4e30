//! A worker's link to whoever coordinates: it outlives the coordinators.
//!
//! ```text
//! On --the call ends--> Away --another is found--> On (waits to be told that it is adopted)
//!  |                                                ^
//!  '--silent too long: looks for a later term-------'
//! ```
//!
//! Training does not wait for any of this. A coordinator that is silent may only be slow, so its line
//! stays while a later term is looked for; one whose call has ended is gone. Reports that a new
//! coordinator needs are kept meanwhile and told again once it has taken the worker's generation
//! over: before that it would not know what they are about.

use std::sync::Arc;
use std::time::Duration;

use convoy_common::checkpoint::Checkpoints;
use convoy_common::ids::{Generation, Position, Term};
use convoy_common::pb;
use convoy_common::rpc::Address;
use pb::worker_message::Kind;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::kept::Kept;
use super::line::{Line, Orders, Reporter};
use super::search::{Lost, Search};
use super::{Introduction, Order, SessionError, Standing};

/// What a worker learns of its coordinator.
#[derive(Debug)]
pub enum News {
    /// It was told something.
    Order(Order),
    /// It is not heard of for so long; it may be gone.
    Silent(Duration),
    /// It is gone. Another one is looked for.
    Lost(SessionError),
    /// Another one, or the same again, has taken the call.
    Back(Box<Back>),
    /// No coordinator will take this worker.
    Refused(SessionError),
}

/// A coordinator that took the call of a worker that had lost one.
#[derive(Debug)]
pub struct Back {
    /// Where it is.
    pub address: Address,
    /// What it says.
    pub welcome: super::Welcome,
    /// It was told of a generation, and says what becomes of it.
    pub expects: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    who: Introduction,
    run: Arc<Checkpoints>,
    fingerprint: String,
    /// Silence that is not normal any more.
    patience: Duration,
    /// Where the last coordinator was.
    address: Address,
    /// Of that one.
    term: Term,
    kept: Kept,
    state: State,
    /// The first word to the next coordinator; none: not known yet.
    hello: watch::Sender<Option<pb::Hello>>,
}

#[derive(Debug)]
enum State {
    On {
        orders: Box<Orders>,
        reporter: Reporter,
        heard: Instant,
        /// It has yet to say that it goes on with the worker's generation.
        expects: bool,
        /// It does not read.
        deaf: bool,
        doubt: Option<Search>,
    },
    Away {
        since: Instant,
        search: Search,
    },
}

impl Link {
    /// On a line to the first coordinator, at `address`.
    pub fn new(
        line: Line,
        address: Address,
        who: Introduction,
        run: Arc<Checkpoints>,
        fingerprint: String,
    ) -> Self {
        let patience = line.welcome.config.cluster.liveness_timeout;
        let term = line.welcome.term;
        let (kept, state) = (Kept::default(), State::on(line, false));
        let hello = watch::Sender::new(None);
        Self { who, run, fingerprint, patience, address, term, kept, state, hello }
    }

    /// Since when there has been no coordinator.
    pub fn away_since(&self) -> Option<Instant> {
        match self.state {
            State::On { .. } => None,
            State::Away { since, .. } => Some(since),
        }
    }

    /// Where the last coordinator was.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether [`Self::stands`] is of use now.
    pub fn is_searching(&self) -> bool {
        matches!(self.state, State::Away { .. } | State::On { doubt: Some(_), .. })
    }

    /// Where the worker is, for the next coordinator; none: it has no part in any generation.
    pub fn stands(&self, standing: Option<&Standing>) {
        let mut hello = pb::Hello::from(self.who.clone());
        hello.standing = standing.map(|it| pb::Standing {
            fingerprint: self.fingerprint.clone(),
            parts: self.kept.parts(),
            ..it.into()
        });
        self.hello.send_replace(Some(hello));
    }

    /// What happens next. Dropping the future loses nothing.
    pub async fn next(&mut self) -> News {
        let silence = self.patience;
        match &mut self.state {
            State::On { orders, deaf: true, .. } => {
                let detail = "it does not read what it is told".to_owned();
                let error = SessionError::Lost { url: orders.url().to_owned(), detail };
                self.lose(error)
            }
            State::On { orders, heard, doubt, .. } => {
                let quiet = *heard + silence;
                let searching = doubt.is_some();
                let later = async {
                    match doubt {
                        Some(search) => search.ends().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    order = orders.next() => match order {
                        Ok(order) => {
                            self.heard();
                            News::Order(order)
                        }
                        Err(error @ SessionError::Refused { .. }) => News::Refused(error),
                        Err(error @ SessionError::Protocol { .. }) => News::Refused(error),
                        Err(error) => self.lose(error),
                    },
                    found = later => self.found(found),
                    () = sleep_until(quiet), if !searching => {
                        self.doubt();
                        News::Silent(silence)
                    }
                }
            }
            State::Away { search, .. } => {
                let found = search.ends().await;
                self.found(found)
            }
        }
    }

    /// Says something of the worker's generation, now or to the next coordinator.
    pub fn report(&mut self, report: pb::WorkerMessage) {
        self.kept.note(&report);
        let at_once = matches!(report.kind, Some(Kind::Heartbeat(_) | Kind::Numerics(_)));
        if let State::On { reporter, expects, deaf, .. } = &mut self.state
            && (at_once || !*expects)
        {
            *deaf |= !reporter.send(report);
        }
    }

    /// A generation begins.
    pub fn begin(&mut self, generation: Generation) {
        self.kept.begin(Some(generation));
        self.expect_nothing();
    }

    /// What became of the checkpoint is decided.
    pub fn settled(&mut self, position: Position) {
        self.kept.settled(position);
    }

    /// The coordinator goes on with the generation: it is told what it may not have heard.
    pub fn adopted(&mut self, generation: Generation) {
        self.expect_nothing();
        let all = self.kept.all();
        debug!(%generation, reports = all.len(), "telling the new coordinator what it missed");
        self.tell(all);
    }

    /// The worker begins anew; that it was asked to go still holds.
    pub fn start_afresh(&mut self) {
        self.kept.begin(None);
        self.expect_nothing();
        let leaving = self.kept.leaving();
        self.tell(leaving);
    }

    fn tell(&mut self, reports: impl IntoIterator<Item = pb::WorkerMessage>) {
        if let State::On { reporter, deaf, .. } = &mut self.state {
            for report in reports {
                *deaf |= !reporter.send(report);
            }
        }
    }

    fn expect_nothing(&mut self) {
        if let State::On { expects, .. } = &mut self.state {
            *expects = false;
        }
    }

    fn heard(&mut self) {
        if let State::On { heard, doubt, .. } = &mut self.state {
            *heard = Instant::now();
            *doubt = doubt.take().filter(Search::is_calling);
        }
    }

    fn doubt(&mut self) {
        let search = self.search(true);
        if let State::On { doubt, .. } = &mut self.state {
            *doubt = Some(search);
        }
    }

    fn lose(&mut self, error: SessionError) -> News {
        let since = match self.state {
            State::On { heard, .. } => heard,
            State::Away { since, .. } => since,
        };
        let search = self.search(false);
        self.state = State::Away { since, search };
        News::Lost(error)
    }

    fn search(&self, in_doubt: bool) -> Search {
        self.hello.send_replace(None);
        let lost = Lost { address: self.address.clone(), term: self.term, in_doubt };
        Search::start(lost, Arc::clone(&self.run), self.hello.subscribe())
    }

    fn found(&mut self, found: Result<(Line, Address), SessionError>) -> News {
        let (line, address) = match found {
            Ok(found) => found,
            Err(error) => return News::Refused(error),
        };
        let told = self.hello.borrow().as_ref().is_some_and(|it| it.standing.is_some());
        let welcome = line.welcome.clone();
        (self.term, self.address) = (welcome.term, address.clone());
        self.patience = welcome.config.cluster.liveness_timeout;
        self.state = State::on(line, told);
        News::Back(Box::new(Back { address, welcome, expects: told }))
    }
}

impl State {
    fn on(line: Line, expects: bool) -> Self {
        let Line { orders, reporter, .. } = line;
        let orders = Box::new(orders);
        Self::On { orders, reporter, heard: Instant::now(), expects, deaf: false, doubt: None }
    }
}
