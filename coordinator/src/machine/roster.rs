//! One generation: who has which rank, who is ready, who has finished.

use convoy_common::ids::{Generation, Position, Rank, Reached};

use super::effect::Seat;
use super::event::ConnectionId;
use super::report::Finished;

/// One fixed roster and what its workers have said of it.
#[derive(Clone, Debug)]
pub(super) struct Roster {
    pub(super) generation: Generation,
    /// Where it started.
    pub(super) start: Reached,
    /// It began with the seed or a checkpoint, and not with what workers held.
    pub(super) fresh: bool,
    /// Digest of the checkpoint that it began with, if it did and that is known.
    pub(super) restores: Option<String>,
    places: Vec<Place>,
}

#[derive(Clone, Debug)]
struct Place {
    connection: ConnectionId,
    seat: Seat,
    ready: Option<String>,
    finished: Option<Finished>,
    /// How it left the generation's ring, if it did.
    left: Option<Out>,
}

/// How a worker left a ring.
#[derive(Clone, Copy, Debug)]
struct Out {
    /// At a boundary that all agreed on.
    agreed: bool,
    /// With a snapshot of its state.
    kept: bool,
}

impl Roster {
    /// Ranks follow the names, so that the same workers get the same ranks again.
    pub(super) fn new(
        generation: Generation,
        (start, fresh): (Reached, bool),
        mut workers: Vec<(ConnectionId, Seat)>,
    ) -> Self {
        workers.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        let places = workers
            .into_iter()
            .map(|(connection, seat)| Place {
                connection,
                seat,
                ready: None,
                finished: None,
                left: None,
            })
            .collect();
        Self { generation, start, fresh, restores: None, places }
    }

    /// Whether this is where the generation began, with a state that is kept already.
    pub(super) fn trained_nothing(&self, position: Position) -> bool {
        self.fresh && self.start.position == position
    }

    pub(super) fn world(&self) -> u32 {
        self.places.len() as u32
    }

    pub(super) fn seats(&self) -> Vec<Seat> {
        self.places.iter().map(|it| it.seat.clone()).collect()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = (Rank, ConnectionId)> {
        self.places.iter().enumerate().map(|(rank, it)| (Rank(rank as u32), it.connection))
    }

    pub(super) fn rank_of(&self, connection: ConnectionId) -> Option<Rank> {
        self.connections().find(|it| it.1 == connection).map(|it| it.0)
    }

    pub(super) fn rank_named(&self, name: &str) -> Option<Rank> {
        self.places.iter().position(|it| it.seat.name == name).map(|rank| Rank(rank as u32))
    }

    pub(super) fn name(&self, rank: Rank) -> &str {
        self.places.get(rank.0 as usize).map_or("?", |it| &it.seat.name)
    }

    pub(super) fn set_ready(&mut self, rank: Rank, state_digest: String) {
        if let Some(place) = self.places.get_mut(rank.0 as usize) {
            place.ready = Some(state_digest);
        }
    }

    /// How many are.
    pub(super) fn ready(&self) -> u32 {
        self.places.iter().filter(|it| it.ready.is_some()).count() as u32
    }

    pub(super) fn not_ready(&self) -> Vec<Rank> {
        self.ranks_where(|it| it.ready.is_none())
    }

    /// The digest that all hold, or which ranks hold which. Who kept its state says none: hashing
    /// it would hold up the others, and the next checkpoint compares all.
    pub(super) fn agreed_state(&self) -> Result<String, Vec<(String, Vec<Rank>)>> {
        let said = self.places.iter().enumerate().map(|(rank, it)| (Rank(rank as u32), &it.ready));
        agreed(said.filter_map(|(rank, ready)| match ready {
            Some(digest) if !digest.is_empty() => Some((rank, digest.clone())),
            _ => None,
        }))
    }

    pub(super) fn set_left(&mut self, rank: Rank, agreed: bool, kept: bool) {
        if let Some(place) = self.places.get_mut(rank.0 as usize) {
            place.left = Some(Out { agreed, kept });
        }
    }

    /// Whether all have left at a boundary that they agreed on, and, unless that does not matter, with a
    /// snapshot.
    pub(super) fn ended_in_agreement(&self, with_snapshot: bool) -> bool {
        let fits = |it: Out| it.agreed && (it.kept || !with_snapshot);
        self.places.iter().all(|it| it.left.is_some_and(fits))
    }

    pub(super) fn has_left(&self, rank: Rank) -> bool {
        self.places.get(rank.0 as usize).is_none_or(|it| it.left.is_some())
    }

    pub(super) fn connection(&self, rank: Rank) -> Option<ConnectionId> {
        self.places.get(rank.0 as usize).map(|it| it.connection)
    }

    pub(super) fn set_finished(&mut self, rank: Rank, finished: Finished) {
        if let Some(place) = self.places.get_mut(rank.0 as usize) {
            place.finished.get_or_insert(finished);
        }
    }

    pub(super) fn finished_by(&self, rank: Rank) -> Option<&Finished> {
        self.places.get(rank.0 as usize).and_then(|it| it.finished.as_ref())
    }

    pub(super) fn unfinished(&self) -> Vec<Rank> {
        self.ranks_where(|it| it.finished.is_none())
    }

    /// What all ranks say of their end; `None` until all have, an account of who says what if they
    /// differ in anything but the detail.
    pub(super) fn agreed_end(&self) -> Option<Result<Finished, String>> {
        let ends: Vec<&Finished> =
            self.places.iter().filter_map(|it| it.finished.as_ref()).collect();
        if ends.len() != self.places.len() {
            return None;
        }
        let what =
            |it: &Finished| format!("{} at {}, state {}", it.cause, it.position, it.state_digest);
        Some(match agreed(by_rank(ends.iter().map(|it| what(it)))) {
            Ok(_) => Ok(ends.first().map(|it| (*it).clone())?),
            Err(groups) => Err(self.tell(&groups)),
        })
    }

    /// Whether all ranks ended alike but for the state that they hold, and who holds which.
    pub(super) fn different_end_states(&self) -> Option<Vec<(String, Vec<Rank>)>> {
        let ends: Vec<&Finished> =
            self.places.iter().filter_map(|it| it.finished.as_ref()).collect();
        let first = ends.first().filter(|_| ends.len() == self.places.len())?;
        if ends.iter().any(|it| (it.position, it.cause) != (first.position, first.cause)) {
            return None;
        }
        agreed(by_rank(ends.iter().map(|it| it.state_digest.clone()))).err()
    }

    /// Who differs from the majority; all, where there is none.
    pub(super) fn odd(&self, groups: &[(String, Vec<Rank>)]) -> Vec<Rank> {
        let majority = groups.first().is_some_and(|it| 2 * it.1.len() > self.world() as usize);
        groups.iter().skip(usize::from(majority)).flat_map(|it| it.1.iter().copied()).collect()
    }

    /// `a, b: TEXT; c: TEXT`
    pub(super) fn tell(&self, groups: &[(String, Vec<Rank>)]) -> String {
        let one =
            |(what, ranks): &(String, Vec<Rank>)| format!("{}: {what}", self.tell_names(ranks));
        groups.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    /// `a, b`
    pub(super) fn tell_names(&self, ranks: &[Rank]) -> String {
        ranks.iter().map(|rank| self.name(*rank)).collect::<Vec<_>>().join(", ")
    }

    fn ranks_where(&self, test: impl Fn(&Place) -> bool) -> Vec<Rank> {
        let found = self.places.iter().enumerate().filter(|(_, place)| test(place));
        found.map(|(rank, _)| Rank(rank as u32)).collect()
    }
}

/// What every rank says, in rank order.
pub(super) fn by_rank(said: impl Iterator<Item = String>) -> impl Iterator<Item = (Rank, String)> {
    said.enumerate().map(|(rank, what)| (Rank(rank as u32), what))
}

/// What all say, or the groups that say alike: the largest first, among equals that of the lowest
/// rank.
pub(super) fn agreed(
    said: impl Iterator<Item = (Rank, String)>,
) -> Result<String, Vec<(String, Vec<Rank>)>> {
    let mut groups: Vec<(String, Vec<Rank>)> = Vec::new();
    for (rank, what) in said {
        match groups.iter_mut().find(|group| group.0 == what) {
            Some(group) => group.1.push(rank),
            None => groups.push((what, vec![rank])),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.1.len()));
    match groups.as_slice() {
        [] => Ok(String::new()),
        [(what, _)] => Ok(what.clone()),
        _ => Err(groups),
    }
}
