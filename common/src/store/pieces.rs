//! A large object on its way to a remote store, in several requests.
//!
//! It appears whole or not at all; what was sent of one that is given up is taken back. Only a process
//! that is killed leaves pieces, which nobody sees and a bucket's lifecycle rule removes.

use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, WriteMultipart};
use scopeguard::ScopeGuard;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::PIECE;

/// Pieces on their way at a time.
const AT_ONCE: usize = 4;
/// For the pieces on their way to arrive, and again for the store to take back what was sent.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Sends all chunks and makes the object appear. Dropped before that, the upload is given up.
pub(super) async fn send(
    upload: Box<dyn MultipartUpload>,
    chunks: Vec<Bytes>,
) -> Result<(), object_store::Error> {
    let upload = WriteMultipart::new_with_chunk_size(upload, PIECE);
    let mut upload = scopeguard::guard(upload, give_up);
    for mut chunk in chunks {
        while !chunk.is_empty() {
            // A failed piece shows here.
            upload.wait_for_capacity(AT_ONCE).await?;
            upload.put(chunk.split_to(chunk.len().min(PIECE)));
        }
    }
    upload.wait_for_capacity(1).await?;
    // From here it takes back by itself what was sent, if it fails.
    ScopeGuard::into_inner(upload).finish().await.map(drop)
}

/// Takes back what was sent, in the background.
fn give_up(mut upload: WriteMultipart) {
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(async move {
        // A store may keep a piece that arrives beside the request to take all back: "it might be
        // necessary to abort a given multipart upload multiple times" (S3, AbortMultipartUpload).
        let arrived = async { while upload.wait_for_capacity(1).await.is_err() {} };
        let _ = timeout(GIVE_UP, arrived).await;
        // A store that does not answer has a lifecycle rule.
        let _ = timeout(GIVE_UP, upload.abort()).await;
    });
}
