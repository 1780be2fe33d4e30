//! The workers that are connected and were taken, by their calls.

use std::collections::BTreeMap;
use std::time::Duration;

use convoy_common::ids::{Position, Reached};

use super::event::{ConnectionId, Hello};
use super::report::Vitals;
use super::stragglers::Track;

/// One connected worker.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) hello: Hello,
    /// When it said something last, or joined.
    pub(super) heard: Duration,
    /// It has said something since it joined. Its heart may begin to beat only when it has opened
    /// its data set.
    pub(super) spoke: bool,
    /// As its last heartbeat in the present generation says.
    pub(super) position: Option<Position>,
    /// As its last heartbeat says.
    pub(super) phase: String,
    pub(super) vitals: Vitals,
    /// What its heartbeats of late come to.
    pub(super) track: Track,
    /// It computes what the run wants, or may do without; until then it gets no rank.
    pub(super) cleared: bool,
    /// The newest order of the override log that it says to know.
    pub(super) newest_drop: u32,
    /// What it holds, as it said when it left its last generation; none while it is in one.
    pub(super) held: Option<Reached>,
    /// It can give others what led to what it holds.
    pub(super) has_unit: bool,
    /// It missed a checkpoint.
    pub(super) owes_checkpoint: bool,
    /// It wants to go.
    pub(super) leaving: bool,
    /// When it was asked, and when it goes at the latest.
    pub(super) leave: Option<(Duration, Duration)>,
}

impl Member {
    pub(super) fn name(&self) -> &str {
        &self.hello.name
    }
}

/// All connected workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    all: BTreeMap<ConnectionId, Member>,
}

impl Members {
    pub(super) fn add(&mut self, connection: ConnectionId, hello: Hello, now: Duration) {
        let phase = "idle".to_owned();
        let member = Member {
            hello,
            heard: now,
            spoke: false,
            position: None,
            phase,
            vitals: Vitals::default(),
            track: Track::default(),
            cleared: false,
            newest_drop: 0,
            held: None,
            has_unit: false,
            owes_checkpoint: false,
            leaving: false,
            leave: None,
        };
        self.all.insert(connection, member);
    }

    pub(super) fn remove(&mut self, connection: ConnectionId) -> Option<Member> {
        self.all.remove(&connection)
    }

    pub(super) fn get_mut(&mut self, connection: ConnectionId) -> Option<&mut Member> {
        self.all.get_mut(&connection)
    }

    pub(super) fn get(&self, connection: ConnectionId) -> Option<&Member> {
        self.all.get(&connection)
    }

    /// Those that want to train and compute what they should.
    pub(super) fn cleared(&self) -> Vec<ConnectionId> {
        self.which(|it| it.cleared && !it.leaving)
    }

    pub(super) fn which(&self, test: impl Fn(&Member) -> bool) -> Vec<ConnectionId> {
        self.all.iter().filter(|it| test(it.1)).map(|it| *it.0).collect()
    }

    /// Their names, in the order given.
    pub(super) fn names_of(&self, connections: &[ConnectionId]) -> Vec<String> {
        connections.iter().filter_map(|it| Some(self.all.get(it)?.name().to_owned())).collect()
    }

    /// The newest state that any of these holds.
    pub(super) fn newest(&self, of: &[ConnectionId]) -> Option<Reached> {
        of.iter().filter_map(|it| self.all.get(it)?.held).max()
    }

    pub(super) fn named(&self, name: &str) -> Option<&Member> {
        self.all.values().find(|it| it.name() == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Member)> {
        self.all.iter().map(|(connection, member)| (*connection, member))
    }

    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.all.keys().copied().collect()
    }

    /// In alphabetical order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.all.values().map(|it| it.name().to_owned()).collect();
        names.sort();
        names
    }

    pub(super) fn len(&self) -> u32 {
        self.all.len() as u32
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those not heard of for longer than `patience`, or not at all for longer than `first`.
    pub(super) fn silent(
        &self,
        now: Duration,
        patience: Duration,
        first: Duration,
    ) -> Vec<(ConnectionId, Duration)> {
        self.all
            .iter()
            .map(|(connection, it)| (*connection, it.spoke, now.saturating_sub(it.heard)))
            .filter(|(_, spoke, silence)| *silence > if *spoke { patience } else { first })
            .map(|(connection, _, silence)| (connection, silence))
            .collect()
    }

    /// Forgets all silence up to now.
    pub(super) fn forgive(&mut self, now: Duration) {
        for member in self.all.values_mut() {
            member.heard = now;
        }
    }
}
