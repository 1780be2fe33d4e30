//! Which chunk goes to the right next.
//!
//! Several operations share one stream. An operation whose result is already delivered here goes
//! first: its caller may now start an operation that the right neighbour cannot start before it has
//! these chunks, so nothing newer may stand before them. The others take turns, so that a small
//! operation does not wait behind a big one. Within an operation, chunks from the left go before
//! own ones, which costs no more time and holds less memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::parcel::{Outgoing, Parcel};

/// What waits to be sent.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Words about the stream itself; they go first.
    words: VecDeque<Outgoing>,
    queues: BTreeMap<u64, Queue>,
    /// The operation that had the last turn.
    last: u64,
}

struct Queue {
    /// Own chunks of hop 0 that are not yet made.
    own: Range<u32>,
    onward: VecDeque<Parcel>,
    /// Its result is delivered here.
    complete: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.onward.is_empty()
    }
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty() && self.queues.values().all(Queue::is_empty)
    }

    pub(crate) fn push_word(&mut self, word: Outgoing) {
        self.words.push_back(word);
    }

    /// Starts an operation that sends `own` chunks in hop 0.
    pub(crate) fn open(&mut self, number: u64, own: u32) {
        let queue = Queue { own: 0..own, onward: VecDeque::new(), complete: false };
        self.queues.insert(number, queue);
    }

    pub(crate) fn push(&mut self, parcel: Parcel) {
        if let Some(queue) = self.queues.get_mut(&parcel.operation) {
            queue.onward.push_back(parcel);
        }
    }

    /// The operation's result is delivered: only what is queued is left to do for it.
    pub(crate) fn complete(&mut self, number: u64) {
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.complete = true;
            if queue.is_empty() {
                self.queues.remove(&number);
            }
        }
    }

    /// Whether all own chunks of the operation are on their way.
    pub(crate) fn own_is_sent(&self, number: u64) -> bool {
        self.queues.get(&number).is_none_or(|queue| queue.own.is_empty())
    }

    /// Takes what goes next; `first` makes own chunk `index` of operation `number`.
    pub(crate) fn pop(
        &mut self,
        first: impl FnOnce(u64, u32) -> Option<Parcel>,
    ) -> Option<Outgoing> {
        if let Some(word) = self.words.pop_front() {
            return Some(word);
        }
        let waiting = |(number, queue): (&u64, &Queue)| (!queue.is_empty()).then_some(*number);
        let number = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.complete)
            .find_map(waiting)
            .or_else(|| self.queues.range(self.last + 1..).find_map(waiting))
            .or_else(|| self.queues.iter().find_map(waiting))?;
        self.last = number;
        let queue = self.queues.get_mut(&number)?;
        let parcel = match queue.onward.pop_front() {
            Some(parcel) => Some(parcel),
            None => queue.own.next().and_then(|index| first(number, index)),
        };
        if queue.complete && queue.is_empty() {
            self.queues.remove(&number);
        }
        parcel.map(Outgoing::Parcel)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::parcel::Collective;
    use super::*;

    fn parcel(operation: u64) -> Parcel {
        Parcel::sealed((operation, Collective::AllGather), (1, 0), 0, Bytes::new())
    }

    fn order(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| match outbox.pop(|_, _| None)? {
            Outgoing::Parcel(parcel) => Some(parcel.operation),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn operations_take_turns_and_delivered_ones_go_first() {
        let mut outbox = Outbox::default();
        for operation in [1, 2, 3] {
            outbox.open(operation, 0);
            outbox.push(parcel(operation));
            outbox.push(parcel(operation));
        }
        outbox.complete(2);
        assert_eq!(order(&mut outbox), [2, 2, 3, 1, 3, 1]);
        assert!(outbox.is_empty());
    }
}
