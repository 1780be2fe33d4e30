//! Who can reach whom, found out before a ring depends on it.
//!
//! ```text
//!  one that waits for a place:  asked to reach all others, they to reach it --all good--> gets a place
//!                                        ^                   '--a link is cut--> asked again later
//!  a link that broke:           both ends asked to try it --cut--> one of them is lost at once
//! ```
//!
//! A worker that is cut off from one peer, where both still reach the coordinator, would break every ring
//! that it is taken into. So it is taken only when all links to and from those who are in work, which
//! is tried while they train and costs them nothing. Whoever was lost for a link, or for holding the others
//! up, is barred for a while besides, twice as long each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::effect::{Effect, Order, Seat};
use super::event::ConnectionId;
use super::note::Note;
use super::trouble::Loss;
use super::{Machine, Phase};

/// For all answers to a question; a worker gives its peers three seconds.
const ANSWER: Duration = Duration::from_secs(6);
/// Between two tries of a link that is cut.
const RETRY: Duration = Duration::from_secs(10);
/// It is barred at most 2^this times as long.
const MOST_DOUBLINGS: u32 = 6;

/// What is known of links.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Of the last question.
    number: u32,
    /// Of those who wait for a place.
    standings: BTreeMap<ConnectionId, Standing>,
    /// Links that broke and are being tried.
    trials: Vec<Trial>,
    bars: BTreeMap<String, Bar>,
}

#[derive(Clone, Debug, Default)]
struct Standing {
    /// Its links to these work.
    good: BTreeSet<ConnectionId>,
    question: Option<Question>,
    /// Not asked before.
    retry: Duration,
}

/// What one that waits for a place, and the others, were asked.
#[derive(Clone, Debug)]
struct Question {
    number: u32,
    since: Duration,
    with: BTreeSet<ConnectionId>,
    /// Who has not answered.
    open: BTreeSet<ConnectionId>,
    cut: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Trial {
    number: u32,
    since: Duration,
    /// The end that is to go if the link is cut, and the other one.
    ends: [ConnectionId; 2],
}

/// Keeps one out that would be lost again.
#[derive(Clone, Debug)]
struct Bar {
    times: u32,
    until: Duration,
}

impl Reach {
    /// Keeps one of that name out for a while, `first` or longer; gives how long.
    pub(super) fn bar(&mut self, now: Duration, name: &str, first: Duration) -> Duration {
        let bar = self.bars.entry(name.to_owned()).or_insert(Bar { times: 0, until: now });
        let time = first * 2_u32.pow(bar.times.min(MOST_DOUBLINGS));
        // Good conduct for ten times as long as it was barred last makes up for it.
        if bar.times > 0 && now > bar.until + 5 * time {
            bar.times = 0;
        }
        let time = first * 2_u32.pow(bar.times.min(MOST_DOUBLINGS));
        (bar.times, bar.until) = (bar.times + 1, now + time);
        time
    }

    fn is_barred(&self, now: Duration, name: &str) -> bool {
        self.bars.get(name).is_some_and(|it| now < it.until)
    }
}

impl Machine {
    /// Those that may be given a rank now.
    pub(super) fn candidates(&self) -> Vec<ConnectionId> {
        let mut found = self.members.cleared();
        let insiders = self.seated();
        // Where nobody holds anything, it begins with all as the first time.
        if self.generations > 0 && !insiders.is_empty() {
            found.retain(|it| insiders.contains(it) || self.fits_in(*it));
        }
        found
    }

    fn fits_in(&self, connection: ConnectionId) -> bool {
        let name = self.members.get(connection).map_or("", |it| it.name());
        let standing = self.reach.standings.get(&connection);
        !self.reach.is_barred(self.now, name)
            && standing.is_some_and(|it| self.peers_of(connection).is_subset(&it.good))
    }

    /// With whom one that waits for a place has to get on: those who are in, and those who wait longer
    /// than it does.
    fn peers_of(&self, connection: ConnectionId) -> BTreeSet<ConnectionId> {
        let insiders = self.seated();
        let waits = |it: &ConnectionId| {
            let standing = self.reach.standings.get(it);
            *it < connection && standing.is_some_and(|it| it.retry <= self.now)
        };
        let all = self.members.which(|it| !it.leaving && it.cleared);
        all.into_iter()
            .filter(|it| *it != connection && (insiders.contains(it) || waits(it)))
            .collect()
    }

    /// Asks those who wait for a place, and those with whom they have to get on, what is not known yet.
    pub(super) fn probe_if_due(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.give_up_on_answers(now, effects);
        let insiders = self.seated();
        let over = matches!(self.phase, Phase::Closing { .. } | Phase::Ended { .. });
        if self.generations == 0 || insiders.is_empty() || over {
            return;
        }
        for to in self.members.cleared() {
            let name = self.members.get(to).map_or("", |it| it.name()).to_owned();
            if insiders.contains(&to) || self.reach.is_barred(now, &name) {
                continue;
            }
            let peers = self.peers_of(to);
            let standing = self.reach.standings.entry(to).or_default();
            let with: BTreeSet<ConnectionId> = peers.difference(&standing.good).copied().collect();
            if standing.question.is_some() || standing.retry > now || with.is_empty() {
                continue;
            }
            self.reach.number += 1;
            let number = self.reach.number;
            let mut open = with.clone();
            open.insert(to);
            standing.question = Some(Question {
                number,
                since: now,
                with: with.clone(),
                open,
                cut: BTreeSet::new(),
            });
            let order = Order::Probe { number, seats: self.seats_of(with.iter()) };
            effects.push(Effect::Send { to, order });
            for peer in with {
                let order = Order::Probe { number, seats: self.seats_of([to].iter()) };
                effects.push(Effect::Send { to: peer, order });
            }
        }
    }

    /// A link broke, and both its ends live: whether it works is tried while a new ring is formed.
    pub(super) fn try_link(
        &mut self,
        now: Duration,
        out: ConnectionId,
        stays: ConnectionId,
        effects: &mut Vec<Effect>,
    ) {
        let ends = [out, stays];
        if ends.iter().any(|it| self.members.get(*it).is_none()) {
            return;
        }
        self.reach.number += 1;
        let number = self.reach.number;
        self.reach.trials.push(Trial { number, since: now, ends });
        for (to, other) in [(out, stays), (stays, out)] {
            let order = Order::Probe { number, seats: self.seats_of([other].iter()) };
            effects.push(Effect::Send { to, order });
        }
    }

    fn seats_of<'a>(&self, of: impl Iterator<Item = &'a ConnectionId>) -> Vec<Seat> {
        let seat = |it: &ConnectionId| {
            let hello = &self.members.get(*it)?.hello;
            Some(Seat { name: hello.name.clone(), ring_address: hello.ring_address.clone() })
        };
        of.filter_map(seat).collect()
    }

    /// A worker says whom it cannot reach.
    pub(super) fn probed(
        &mut self,
        now: Duration,
        by: ConnectionId,
        number: u32,
        unreachable: &[String],
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.members.get_mut(by) else { return };
        (member.heard, member.spoke) = (now, true);
        let name = member.name().to_owned();
        let trial =
            self.reach.trials.iter().find(|it| it.number == number && it.ends.contains(&by));
        if let Some(Trial { ends: [out, stays], .. }) = trial.cloned() {
            return self.tried(now, (out, stays), !unreachable.is_empty(), effects);
        }
        let asked = |it: &Standing| it.question.as_ref().is_some_and(|it| it.number == number);
        let found = self.reach.standings.iter_mut().find(|it| asked(it.1));
        let Some((to, standing)) = found else { return };
        let Some(question) = &mut standing.question else { return };
        if !question.open.remove(&by) {
            return;
        }
        if by == *to {
            question.cut.extend(unreachable.iter().cloned());
        } else if !unreachable.is_empty() {
            question.cut.insert(name);
        }
        let to = *to;
        self.conclude_question(now, to, effects);
    }

    fn tried(
        &mut self,
        now: Duration,
        (out, stays): (ConnectionId, ConnectionId),
        cut: bool,
        effects: &mut Vec<Effect>,
    ) {
        let (seated, with) = (self.seated(), self.name_of(stays));
        let both = [out, stays].iter().all(|it| seated.contains(it));
        if cut && both && !matches!(self.phase, Phase::Closing { .. }) {
            self.reach.trials.retain(|it| it.ends != [out, stays]);
            self.links.forgive();
            self.leave(now, out, Loss::Cut { with }, effects);
        }
    }

    /// Decides about one that waits for a place, once all have answered.
    fn conclude_question(&mut self, now: Duration, to: ConnectionId, effects: &mut Vec<Effect>) {
        let Some(standing) = self.reach.standings.get_mut(&to) else { return };
        let Some(question) = standing.question.take_if(|it| it.open.is_empty()) else { return };
        if question.cut.is_empty() {
            standing.good.extend(question.with);
        } else {
            // What worked may be cut by then, too.
            standing.good.clear();
            standing.retry = now + RETRY;
            let (name, with) = (self.name_of(to), question.cut.into_iter().collect());
            return effects.push(Effect::Log(Note::Unreachable { name, with, retry: RETRY }));
        }
        if !self.fits_in(to) {
            // Others have come meanwhile.
            return self.probe_if_due(now, effects);
        }
        match self.phase {
            Phase::Waiting { .. } if self.generations > 0 => self.look_again(now, effects),
            _ => self.regroup_if_due(now, effects),
        }
    }

    /// Whoever does not answer does not reach anybody; whoever is gone is not waited for.
    fn give_up_on_answers(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let members = &self.members;
        let there = |it: &ConnectionId| members.get(*it).is_some();
        self.reach.trials.retain(|it| now < it.since + ANSWER && it.ends.iter().all(there));
        self.reach.standings.retain(|it, _| there(it));
        let mut open = Vec::new();
        for (to, standing) in &mut self.reach.standings {
            standing.good.retain(there);
            let Some(question) = &mut standing.question else { continue };
            question.open.retain(there);
            question.with.retain(there);
            if now >= question.since + ANSWER {
                let silent = std::mem::take(&mut question.open).into_iter();
                question
                    .cut
                    .extend(silent.filter_map(|it| Some(members.get(it)?.name().to_owned())));
            }
            if question.open.is_empty() {
                open.push(*to);
            }
        }
        for to in open {
            self.conclude_question(now, to, effects);
        }
    }
}
