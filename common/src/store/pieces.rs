//! A large object on its way to a remote store, in several requests.
//!
//! It appears whole or not at all; what was sent of one that is given up is taken back. Only a process
//! that is killed leaves pieces, which nobody sees and a bucket's lifecycle rule removes.

use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, WriteMultipart};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::PIECE;

/// Pieces on their way at a time.
const AT_ONCE: usize = 4;
/// For the store to take back what was sent.
const ABORT: Duration = Duration::from_secs(10);

/// The pieces of one object. Dropped before it is finished, the upload is given up.
pub(super) struct Pieces {
    upload: Option<WriteMultipart>,
}

impl Pieces {
    pub(super) fn new(upload: Box<dyn MultipartUpload>) -> Self {
        Self { upload: Some(WriteMultipart::new_with_chunk_size(upload, PIECE)) }
    }

    /// Sends all chunks and makes the object appear.
    pub(super) async fn send(mut self, chunks: Vec<Bytes>) -> Result<(), object_store::Error> {
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let Some(upload) = &mut self.upload else { return Ok(()) };
                // A failed piece shows here.
                upload.wait_for_capacity(AT_ONCE).await?;
                upload.put(chunk.split_to(chunk.len().min(PIECE)));
            }
        }
        if let Some(upload) = &mut self.upload {
            upload.wait_for_capacity(1).await?;
        }
        match self.upload.take() {
            // It takes back what was sent by itself if it fails.
            Some(upload) => upload.finish().await.map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                // A store that does not answer has a lifecycle rule.
                let _ = timeout(ABORT, upload.abort()).await;
            });
        }
    }
}
