//! Reads of data: exactly the bytes that were asked for, or an error, within a deadline.
//!
//! This layer owns the tries: the backend below makes one, without a timeout of its own, so that no
//! two layers count on each other's patience. A try ends when nothing came for a while, or when it
//! took half of the time that is left, so that one connection that drips cannot use up all of it.
//!
//! ```text
//!  |<----------------------------- within ----------------------------->|
//!  | try 1: half of it at most   | pause | try 2: half of the rest | .. |  GaveUp
//! ```
//!
//! What the bytes mean is not known here: callers hold checksums against them.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{GetOptions, GetRange, ObjectStoreExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::chance;
use super::patience::{Fault, Next, Patience};
use super::{Store, StoreError};

/// Ranges of one object with a gap of at most so many bytes are read with one request: at the
/// 50 MB/s of one connection such a gap takes 5 ms, a request to S3 some 20 ms and more.
const NEAR: u64 = 256 << 10;

/// The longest request that comes of joining ranges, so that a try again repeats little.
const LONGEST: u64 = 8 << 20;

/// Bytes of one request for a part of a whole object: what a slow line, of 2 Mbit/s, brings within
/// half of the default deadline.
pub(crate) const READ_PIECE: u64 = 4 << 20;

/// Requests under way for one call.
const AT_ONCE: usize = 8;

impl Store {
    /// These bytes of the object, all of them.
    ///
    /// # Errors
    /// [`StoreError::GaveUp`] when they have not come `within` the time, tries and pauses
    /// included, or when the store keeps answering with other than what was asked for; at once
    /// [`StoreError::NotFound`], [`StoreError::Denied`] and what else another try cannot mend.
    pub async fn read_range(
        &self,
        path: &str,
        range: Range<u64>,
        within: Duration,
    ) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let begin = Instant::now();
        let mut patience = Patience::new(within);
        loop {
            let failure = match self.try_range(path, &range, &patience, begin).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            match patience.after(failure.fault, begin.elapsed(), chance()) {
                Next::Pause(pause) => {
                    tracing::debug!(
                        object = self.url_of(path),
                        error = %failure.error,
                        pause_ms = pause.as_millis() as u64,
                        "a read is tried again"
                    );
                    sleep(pause).await;
                }
                Next::Fail => return Err(failure.error),
                Next::GiveUp => {
                    return Err(StoreError::GaveUp {
                        url: self.url_of(path),
                        range,
                        tries: patience.tries(),
                        took: begin.elapsed(),
                        source: Box::new(failure.error),
                    });
                }
            }
        }
    }

    /// Several ranges of one object, in the order given; near ones are read with one request.
    ///
    /// # Errors
    /// As [`Store::read_range`].
    pub async fn read_ranges(
        &self,
        path: &str,
        ranges: &[Range<u64>],
        within: Duration,
    ) -> Result<Vec<Bytes>, StoreError> {
        let requests = joined(ranges);
        let answers: Vec<Bytes> = stream::iter(requests.clone())
            .map(|request| self.read_range(path, request, within))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let cut = |range: &Range<u64>| {
            let at = requests.partition_point(|request| request.start <= range.start);
            let (request, answer) = at.checked_sub(1).map(|at| (&requests[at], &answers[at]))?;
            let start = (range.start - request.start) as usize;
            let end = start + (range.end - range.start) as usize;
            (end <= answer.len()).then(|| answer.slice(start..end))
        };
        Ok(ranges.iter().map(|range| cut(range).unwrap_or_default()).collect())
    }

    async fn try_range(
        &self,
        path: &str,
        range: &Range<u64>,
        patience: &Patience,
        begin: Instant,
    ) -> Result<Bytes, Failure> {
        let length = (range.end - range.start) as usize;
        let allowed = patience.allowed(begin.elapsed());
        let tried = timeout(allowed, async {
            if self.endpoint.is_none() {
                let read = self.single.get_range(&self.full(path), range.clone()).await;
                let bytes = read.map_err(|error| self.failure(path, error))?;
                return if bytes.len() == length { Ok(bytes) } else { Err(self.wrong(path)) };
            }
            self.receive(path, range, length, patience.silence()).await
        });
        match tried.await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.silent(path, format!("not done after {}", seconds(allowed)))),
        }
    }

    async fn receive(
        &self,
        path: &str,
        range: &Range<u64>,
        length: usize,
        silence: Duration,
    ) -> Result<Bytes, Failure> {
        let silent = |_| self.silent(path, format!("not a byte for {}", seconds(silence)));
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.clone())), ..Default::default() };
        let location = self.full(path);
        let answer = timeout(silence, self.single.get_opts(&location, options)).await;
        let answer = answer.map_err(silent)?.map_err(|error| self.failure(path, error))?;
        let mut body = answer.into_stream();
        let mut received = BytesMut::new();
        loop {
            let chunk = timeout(silence, body.try_next()).await.map_err(silent)?;
            let Some(chunk) = chunk.map_err(|error| self.failure(path, error))? else { break };
            if received.is_empty() {
                if chunk.len() == length {
                    return Ok(chunk);
                }
                received.reserve(length);
            }
            received.extend_from_slice(&chunk);
            if received.len() > length {
                break;
            }
        }
        if received.len() == length { Ok(received.freeze()) } else { Err(self.wrong(path)) }
    }

    fn failure(&self, path: &str, error: object_store::Error) -> Failure {
        // The client's own words; there is no other sign of these.
        let text = error.to_string();
        let client_error = text.split("status code: ").nth(1).is_some_and(|status| {
            status.starts_with('4') && !status.starts_with("408") && !status.starts_with("429")
        });
        let other_range = text.contains("Requested ") || text.contains("non-partial response");
        let error = self.context("read", path).explain(error);
        let fault = match &error {
            StoreError::Unreachable { .. } | StoreError::Failing { .. } => Fault::Passing,
            StoreError::Other { .. } if client_error || self.endpoint.is_none() => Fault::Lasting,
            StoreError::Other { .. } if other_range => Fault::Wrong,
            StoreError::Other { .. } => Fault::Passing,
            _ => Fault::Lasting,
        };
        Failure { fault, error }
    }

    fn silent(&self, path: &str, what: String) -> Failure {
        let error = StoreError::Unreachable {
            endpoint: self.endpoint.as_deref().unwrap_or(self.url()).to_owned(),
            url: self.url_of(path),
            source: what.into(),
        };
        Failure { fault: Fault::Passing, error }
    }

    fn wrong(&self, path: &str) -> Failure {
        let error = StoreError::Other {
            action: "read",
            url: self.url_of(path),
            source: "the answer has another length than what was asked for".into(),
        };
        Failure { fault: Fault::Wrong, error }
    }
}

/// A try that failed, and what that means for the next.
struct Failure {
    fault: Fault,
    error: StoreError,
}

/// Ranges that cover those given, by rising start, near ones in one.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|it| !it.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            // What begins within the last one belongs to it, whatever its length.
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            Some(last) if range.start - last.end <= NEAR && range.end - last.start <= LONGEST => {
                last.end = range.end;
            }
            _ => joined.push(range),
        }
    }
    joined
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn near_ranges_are_one_request_and_far_ones_several() {
        let case = |given: &[(u64, u64)], expected: &[(u64, u64)]| {
            let given: Vec<Range<u64>> = given.iter().map(|it| it.0..it.1).collect();
            let found: Vec<(u64, u64)> =
                joined(&given).iter().map(|it| (it.start, it.end)).collect();
            assert_eq!(found, expected);
        };
        case(&[(0, 10), (10 + NEAR, 20 + NEAR)], &[(0, 20 + NEAR)]);
        case(&[(0, 10), (11 + NEAR, 20 + NEAR)], &[(0, 10), (11 + NEAR, 20 + NEAR)]);
        case(&[(5, 9), (0, 10), (7, 7)], &[(0, 10)]);
        case(&[(0, LONGEST), (LONGEST, LONGEST + 1)], &[(0, LONGEST), (LONGEST, LONGEST + 1)]);
    }

    proptest! {
    #[test]
    fn every_range_lies_within_the_request_that_is_found_for_it(
        ranges in prop::collection::vec((0_u64..20_000_000, 0_u64..400_000), 0..40),
    ) {
        let ranges: Vec<Range<u64>> =
            ranges.into_iter().map(|(start, length)| start..start + length).collect();
        let requests = joined(&ranges);
        prop_assert!(requests.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for range in ranges.iter().filter(|it| !it.is_empty()) {
            let at = requests.partition_point(|request| request.start <= range.start);
            let request = &requests[at - 1];
            prop_assert!(request.start <= range.start && range.end <= request.end);
        }
    }    }
}
