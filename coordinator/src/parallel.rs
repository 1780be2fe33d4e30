//! Work shared out over OS threads, with the results in order.
//!
//! Thread `t` of `T` does the items t, t + T, t + 2T, ... and hands them over through a bounded
//! channel of its own; the caller takes from the channels in turn. So the order never depends on
//! the threads, and what is finished but not yet taken is bounded. In a [`pipeline`] the items too
//! come from a thread, in turn through a bounded channel for each.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Finished items that a thread may be ahead.
const AHEAD: usize = 16;

/// Threads to use when the user names no number: one per core.
pub(crate) fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Makes the items `0..count` on `threads` threads, and consumes them in order on this one.
///
/// Each thread has a state of its own, which `init` makes and which is returned at the end. The
/// first error of `consume` ends everything; what the threads have in hand is dropped.
pub(crate) fn in_order<S: Send, T: Send, E>(
    threads: usize,
    count: usize,
    init: impl Fn() -> S + Sync,
    make: impl Fn(&mut S, usize) -> T + Sync,
    mut consume: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<Vec<S>, E> {
    let threads = threads.clamp(1, count.max(1));
    let (init, make) = (&init, &make);
    thread::scope(|scope| {
        let mut receivers: Vec<Receiver<T>> = Vec::with_capacity(threads);
        let mut handles = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver): (SyncSender<T>, _) = sync_channel(AHEAD);
            receivers.push(receiver);
            handles.push(scope.spawn(move || {
                let mut state = init();
                for item in (first..count).step_by(threads) {
                    let made = make(&mut state, item);
                    if sender.send(made).is_err() {
                        break;
                    }
                }
                state
            }));
        }
        for item in 0..count {
            // The other end is gone only if its thread panicked; joining says so.
            let Ok(made) = receivers[item % threads].recv() else { break };
            consume(item, made)?;
        }
        drop(receivers);
        Ok(handles
            .into_iter()
            .map(|handle| match handle.join() {
                Ok(state) => state,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect())
    })
}

/// Items that wait before and behind each thread of a pipeline.
const WAITING: usize = 2;

/// Takes items from `feed` on a thread of its own until it gives none, makes something of each on
/// `threads` threads, and consumes that in order on this one.
///
/// An error of `feed` comes in its turn, as the last; the first error of `consume` ends everything,
/// once `feed` and the threads have done what they have in hand.
pub(crate) fn pipeline<I: Send, T: Send, F: Send, E>(
    threads: usize,
    mut feed: impl FnMut() -> Result<Option<I>, F> + Send,
    make: impl Fn(I) -> Result<T, F> + Sync,
    mut consume: impl FnMut(Result<T, F>) -> Result<(), E>,
) -> Result<(), E> {
    let make = &make;
    thread::scope(|scope| {
        let mut inputs: Vec<SyncSender<Result<I, F>>> = Vec::with_capacity(threads);
        let mut outputs: Vec<Receiver<Result<T, F>>> = Vec::with_capacity(threads);
        for _ in 0..threads.max(1) {
            let (input, items) = sync_channel::<Result<I, F>>(WAITING);
            let (made, output) = sync_channel(WAITING);
            inputs.push(input);
            outputs.push(output);
            scope.spawn(move || {
                for item in items {
                    if made.send(item.and_then(make)).is_err() {
                        break;
                    }
                }
            });
        }
        scope.spawn(move || {
            for number in 0.. {
                let item = match feed() {
                    Ok(Some(item)) => Ok(item),
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let last = item.is_err();
                if inputs[number % inputs.len()].send(item).is_err() || last {
                    break;
                }
            }
        });
        for number in 0.. {
            // Nothing more comes in the turn of a thread whose items have ended, or that panicked,
            // which the scope passes on.
            let Ok(made) = outputs[number % outputs.len()].recv() else { break };
            consume(made)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_keeps_the_order_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let mut fed = 0..50;
            let mut seen = Vec::new();
            let outcome = pipeline(
                threads,
                || Ok::<_, ()>(fed.next()),
                |item| Ok(item * 10),
                |made| {
                    seen.push(made.unwrap());
                    Ok::<_, ()>(())
                },
            );
            assert_eq!((outcome, seen), (Ok(()), (0..50).map(|it| it * 10).collect()));
        }
    }

    #[test]
    fn errors_of_a_pipeline_come_in_their_turn_and_end_it() {
        for threads in [1, 3] {
            let mut fed = 0..;
            let feed = || match fed.next() {
                Some(20) => Err("feed"),
                item => Ok(item),
            };
            let mut seen = 0;
            let outcome = pipeline(threads, feed, Ok, |made| made.map(|_| seen += 1));
            assert_eq!((outcome, seen), (Err("feed"), 20));
            let make = |item| if item == 7 { Err("make") } else { Ok(item) };
            let mut fed = 0..;
            let mut seen = 0;
            let outcome =
                pipeline(threads, || Ok(fed.next()), make, |made| made.map(|_| seen += 1));
            assert_eq!((outcome, seen), (Err("make"), 7));
        }
    }

    #[test]
    fn items_come_in_order_and_each_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7, 64] {
            for count in [0, 1, 2, 50] {
                let mut seen = Vec::new();
                let states = in_order(
                    threads,
                    count,
                    || 0,
                    |made, item| {
                        *made += 1;
                        item * 10
                    },
                    |item, made| {
                        seen.push((item, made));
                        Ok::<_, ()>(())
                    },
                );
                let expected: Vec<_> = (0..count).map(|item| (item, item * 10)).collect();
                assert_eq!(seen, expected, "{threads} threads");
                assert_eq!(states.map(|all| all.iter().sum::<usize>()), Ok(count));
            }
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let outcome = in_order(
            4,
            1_000_000,
            || (),
            |(), item| item,
            |item, _| if item == 5 { Err(item) } else { Ok(()) },
        );
        assert_eq!(outcome, Err(5));
    }
}
