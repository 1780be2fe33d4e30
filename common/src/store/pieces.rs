//! A large object on its way to a bucket, in several requests.
//!
//! It appears whole or not at all. What was sent of one that is given up is taken back at once; for one
//! whose writer is killed, or whose store is out of reach by then, a [marker](super::leftovers) stays
//! for whoever sweeps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{Error, MultipartId, ObjectStoreExt as _, PutPayload};
use scopeguard::ScopeGuard;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PIECE;

/// Pieces on their way at a time.
const AT_ONCE: usize = 4;
/// For the pieces on their way to arrive, and again for the store to take back what was sent.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The highest number that S3 has for a piece, counted from 0.
const LAST_PIECE: usize = 9_999;

/// One upload between its beginning and its end.
struct Upload {
    bucket: Arc<AmazonS3>,
    object: Path,
    id: MultipartId,
    marker: Path,
    /// Each a task of its own, so that giving up can wait for it.
    sending: JoinSet<Result<(usize, PartId), Error>>,
}

/// Sends all chunks and makes the object appear. Dropped before that, the upload is given up.
/// `marker_of` says where the marker of an upload with that id lies.
pub(super) async fn send(
    bucket: &Arc<AmazonS3>,
    object: Path,
    marker_of: impl FnOnce(&str) -> Path,
    chunks: Vec<Bytes>,
) -> Result<(), Error> {
    let total: usize = chunks.iter().map(Bytes::len).sum();
    let id = bucket.create_multipart(&object).await?;
    let marker = marker_of(&id);
    let upload = Upload { bucket: Arc::clone(bucket), object, id, marker, sending: JoinSet::new() };
    let mut upload = scopeguard::guard(upload, Upload::give_up);
    // Before the first piece: no piece is ever without a marker.
    bucket.put(&upload.marker, upload.id.clone().into()).await?;
    let mut sent = Vec::new();
    for (number, piece) in pieces(chunks).into_iter().enumerate() {
        if upload.sending.len() >= AT_ONCE {
            sent.extend(upload.one_arrives().await?);
        }
        upload.send(number, piece);
    }
    while let Some(arrived) = upload.one_arrives().await? {
        sent.push(arrived);
    }
    sent.sort_unstable_by_key(|(number, _)| *number);
    let parts = sent.into_iter().map(|(_, part)| part).collect();
    let before = stamp(bucket, &upload.object).await;
    if let Err(error) = bucket.complete_multipart(&upload.object, &upload.id, parts).await {
        // If the answer was lost, the next one is that there is no such upload. An object that was not
        // there just now, or was another, and has the right size is this one.
        let now = stamp(bucket, &upload.object).await;
        let appeared = matches!((&before, &now), (Ok(before), Ok(Some(now)))
            if before.as_ref() != Some(now) && now.size == total as u64);
        if !appeared {
            return Err(error);
        }
    }
    let done = ScopeGuard::into_inner(upload);
    // The object is there, whatever becomes of the marker.
    let _ = bucket.delete(&done.marker).await;
    Ok(())
}

impl Upload {
    fn send(&mut self, number: usize, piece: PutPayload) {
        let (bucket, object, id) = (Arc::clone(&self.bucket), self.object.clone(), self.id.clone());
        self.sending.spawn(async move {
            Ok((number, bucket.put_part(&object, &id, number, piece).await?))
        });
    }

    /// A piece that has arrived, of those on their way.
    async fn one_arrives(&mut self) -> Result<Option<(usize, PartId)>, Error> {
        match self.sending.join_next().await {
            Some(arrived) => Ok(Some(arrived??)),
            None => Ok(None),
        }
    }

    /// Takes back what was sent, in the background.
    fn give_up(mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            // A store may keep a piece that arrives beside the request to take all back: "it might be
            // necessary to abort a given multipart upload multiple times" (S3, AbortMultipartUpload).
            let arrived = async { while self.sending.join_next().await.is_some() {} };
            let _ = timeout(GIVE_UP, arrived).await;
            let taken_back = take_back(&self.bucket, &self.object, &self.id, &self.marker);
            // Where the store does not answer, the marker stays.
            let _ = timeout(GIVE_UP, taken_back).await;
        });
    }
}

/// What tells one object at a path from another.
#[derive(PartialEq)]
struct Stamp {
    size: u64,
    tag: Option<String>,
    modified: DateTime<Utc>,
}

/// None: there is no object.
async fn stamp(bucket: &AmazonS3, object: &Path) -> Result<Option<Stamp>, Error> {
    match bucket.head(object).await {
        Ok(it) => Ok(Some(Stamp { size: it.size, tag: it.e_tag, modified: it.last_modified })),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Offers the bucket one more piece of an upload, which it takes of none that is over.
///
/// It tells a server that has words of its own for what is over from one that does not let these keys
/// take anything back: both may say that access is denied.
pub(super) async fn offer(bucket: &AmazonS3, object: &Path, id: &MultipartId) -> Result<(), Error> {
    bucket.put_part(object, id, LAST_PIECE, PutPayload::from_static(b"?")).await.map(drop)
}

/// Makes the bucket forget the pieces of an upload, and its marker. One that is done or that is taken
/// back already is no error.
pub(super) async fn take_back(
    bucket: &AmazonS3,
    object: &Path,
    id: &MultipartId,
    marker: &Path,
) -> Result<(), Error> {
    match bucket.abort_multipart(object, id).await {
        Ok(()) | Err(Error::NotFound { .. }) => bucket.delete(marker).await,
        Err(error) => Err(error),
    }
}

/// Cuts chunks into pieces of [`PIECE`] bytes, the last one of what remains, without copying.
fn pieces(chunks: Vec<Bytes>) -> Vec<PutPayload> {
    let mut pieces = Vec::new();
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for mut chunk in chunks {
        while !chunk.is_empty() {
            let taken = chunk.split_to(chunk.len().min(PIECE - bytes));
            bytes += taken.len();
            piece.push(taken);
            if bytes == PIECE {
                pieces.push(PutPayload::from_iter(std::mem::take(&mut piece)));
                bytes = 0;
            }
        }
    }
    if bytes > 0 {
        pieces.push(PutPayload::from_iter(piece));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_of_one_size_but_for_the_last_and_hold_all_bytes_in_order() {
        for sizes in [vec![], vec![0], vec![1], vec![PIECE], vec![PIECE - 1, 2, PIECE, 0, 5]] {
            let bytes = |at: usize| (at * 7 + at / 251) as u8;
            let mut all = 0..;
            let chunks: Vec<Bytes> =
                sizes.iter().map(|size| all.by_ref().take(*size).map(bytes).collect()).collect();
            let total: usize = sizes.iter().sum();
            let pieces = pieces(chunks);
            assert_eq!(pieces.len(), total.div_ceil(PIECE));
            let (last, whole) = match pieces.split_last() {
                Some((last, whole)) => (last.content_length(), whole),
                None => (0, &[][..]),
            };
            assert!(last <= PIECE && whole.iter().all(|it| it.content_length() == PIECE));
            let sent = pieces.iter().flatten().flat_map(|it| it.iter().copied());
            assert!(sent.eq((0..total).map(bytes)));
        }
    }
}
