//! What can go wrong with a store, by what the caller can do about it.
//!
//! The backends' errors differ in form and wording; [`Context::explain`] is the one place that
//! reads them.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::exit;
use crate::failure::Explain;

/// The backend's own error.
pub type Cause = Box<dyn Error + Send + Sync>;

/// An operation on a [`super::Store`] failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no store.
    #[error("{url} is not a store: {reason}")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers at the endpoint, or not in time.
    #[error("cannot reach the object store at {endpoint} for {url}")]
    Unreachable {
        /// Where requests go.
        endpoint: String,
        /// The object or prefix asked for.
        url: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The credentials are missing or wrong, or lack the right.
    #[error("access to {url} is denied")]
    Denied {
        /// The object or prefix asked for.
        url: String,
        /// Where requests go, for a remote store.
        endpoint: Option<String>,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// The bucket does not exist.
    #[error("the bucket of {url} does not exist at {endpoint}")]
    NoBucket {
        /// The object or prefix asked for.
        url: String,
        /// Where requests go.
        endpoint: String,
    },
    /// The store has no room for what is to be written.
    #[error("there is no room left for {url}")]
    Full {
        /// The object.
        url: String,
        /// Where requests go, for a remote store.
        endpoint: Option<String>,
        /// What the store says.
        #[source]
        source: Cause,
    },
    /// The store answers that something is wrong with itself.
    #[error("the object store at {endpoint} fails to {action} {url}")]
    Failing {
        /// `read`, `write`, ...
        action: &'static str,
        /// Where requests go.
        endpoint: String,
        /// The object or prefix asked for.
        url: String,
        /// What it says.
        #[source]
        source: Cause,
    },
    /// There is no such object.
    #[error("{url} does not exist")]
    NotFound {
        /// The object asked for.
        url: String,
    },
    /// A create-only write found the object already there, and not with what was to be written.
    #[error("{url} exists already")]
    Exists {
        /// The object.
        url: String,
    },
    /// The store lets two writers create one object, so nothing could be fenced on it.
    #[error("the store at {url} does not honour create-only writes")]
    NotFenced {
        /// The store.
        url: String,
        /// What it did instead.
        reason: String,
    },
    /// An object of another size than anything that should be there.
    #[error("{url} has {bytes} bytes, more than the {most} that it may have")]
    TooLarge {
        /// The object.
        url: String,
        /// Its size.
        bytes: u64,
        /// What is allowed.
        most: u64,
    },
    /// A read did not go well for as long as it was tried.
    #[error(
        "gave up reading bytes {} to {} of {url} after {tries} tries in {:.1} s",
        range.start, range.end, took.as_secs_f64()
    )]
    GaveUp {
        /// The object.
        url: String,
        /// The bytes that were asked for.
        range: Range<u64>,
        /// How often.
        tries: u32,
        /// For how long.
        took: Duration,
        /// Why the last one failed.
        #[source]
        source: Box<StoreError>,
    },
    /// Anything else.
    #[error("cannot {action} {url}")]
    Other {
        /// `read`, `write`, ...
        action: &'static str,
        /// The object or prefix.
        url: String,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl Explain for StoreError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadUrl { .. } => {
                "give a folder, file:///FOLDER, or s3://BUCKET/PREFIX".to_owned()
            }
            Self::Unreachable { .. } => {
                "check the network and AWS_ENDPOINT_URL; plain http beyond this machine also needs \
                 AWS_ALLOW_HTTP=true"
                    .to_owned()
            }
            Self::Denied { endpoint: None, .. } => {
                "check owner and permissions of the folder, and whether its file system is mounted \
                 for writing"
                    .to_owned()
            }
            Self::Denied { endpoint: Some(_), .. } => {
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION; \
                 profiles in ~/.aws are not read"
                    .to_owned()
            }
            Self::NoBucket { .. } => {
                "create the bucket first, or correct the URL or AWS_ENDPOINT_URL".to_owned()
            }
            Self::Full { endpoint: None, .. } => {
                "free space on the disk of the folder, or raise the quota".to_owned()
            }
            Self::Full { endpoint: Some(_), .. } => {
                "remove objects from the bucket, or raise its quota".to_owned()
            }
            Self::Failing { .. } => {
                "see the object store's own log or status page; it may be overloaded".to_owned()
            }
            Self::NotFound { .. } => "check the URL".to_owned(),
            Self::TooLarge { .. } => "this is no file of Convoy's: check the URL".to_owned(),
            Self::Exists { .. } => return None,
            Self::NotFenced { reason, .. } => format!(
                "{reason}; use a store with conditional writes (If-None-Match), such as S3, or a \
                 folder; --unfenced goes without, and then you must see to it that a run has one \
                 coordinator"
            ),
            Self::GaveUp { .. } => {
                "check the object store and the network to it; if it is only slow, raise \
                 data.read_timeout"
                    .to_owned()
            }
            Self::Other { .. } => "check the folder, or the object store's own log".to_owned(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. }
            | Self::Full { .. }
            | Self::Failing { .. }
            | Self::GaveUp { .. } => exit::UNAVAILABLE,
            Self::BadUrl { .. }
            | Self::Denied { .. }
            | Self::NoBucket { .. }
            | Self::NotFound { .. }
            | Self::TooLarge { .. }
            | Self::NotFenced { .. } => exit::BAD_INPUT,
            Self::Exists { .. } | Self::Other { .. } => exit::FAILURE,
        }
    }
}

impl StoreError {
    /// Whether the store cannot be reached or cannot answer, and may be back in a moment.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Failing { .. })
    }

    /// Whether the same request may go well later, without anybody changing what it asks for: the
    /// network comes back, keys are renewed, space is freed. What cannot is settled: the object is
    /// another's, or not there, or the store is none.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Denied { .. }
            | Self::NoBucket { .. }
            | Self::Full { .. }
            | Self::Failing { .. }
            | Self::GaveUp { .. }
            | Self::Other { .. } => true,
            Self::BadUrl { .. }
            | Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::NotFenced { .. }
            | Self::TooLarge { .. } => false,
        }
    }
}

/// What a write without conditions is called.
pub(super) const WRITE: &str = "write";

/// Words by which S3 servers say that a bucket or their disks are full.
const FULL: [&str; 6] = [
    "InsufficientStorage",
    "QuotaExceeded",
    "StorageFull",
    "NotEnoughSpace",
    "status code: 507",
    "No space left on device",
];

/// What an operation was about, for the error that it may end with.
pub(super) struct Context<'a> {
    pub(super) action: &'static str,
    pub(super) url: String,
    pub(super) endpoint: Option<&'a str>,
}

impl Context<'_> {
    /// The meaning of a backend's error.
    pub(super) fn explain(self, error: object_store::Error) -> StoreError {
        use object_store::Error as E;
        let url = self.url.clone();
        let text = error.to_string();
        if let Some(endpoint) = self.endpoint {
            let endpoint = endpoint.to_owned();
            if text.contains("NoSuchBucket") {
                return StoreError::NoBucket { url, endpoint };
            }
            if text.contains("InvalidBucketName") {
                let reason = format!("{endpoint} takes no bucket of that name");
                return StoreError::BadUrl { url, reason };
            }
            if FULL.iter().any(|word| text.contains(word)) {
                let source = Box::new(error);
                return StoreError::Full { url, endpoint: Some(endpoint), source };
            }
            // Without keys in the environment the client asks the cloud's metadata service.
            if text.contains("169.254.169.254") || text.contains("169.254.170.2") {
                let source = "there are no credentials in the environment".into();
                return StoreError::Denied { url, endpoint: Some(endpoint), source };
            }
            // Listings come without a variant of their own for these.
            if text.contains("status code: 403") || text.contains("status code: 401") {
                let source = Box::new(error);
                return StoreError::Denied { url, endpoint: Some(endpoint), source };
            }
            if text.contains("HTTP URL is not allowed")
                || text.contains("URL scheme is not allowed")
            {
                let source = "plain http is refused beyond this machine".into();
                return StoreError::Unreachable { endpoint, url, source };
            }
        }
        match error {
            // An upload in pieces that somebody took back; another try begins a new one.
            E::NotFound { .. } if self.action == WRITE => self.failing(url, error),
            E::NotFound { .. } => StoreError::NotFound { url },
            // Without a condition that is a conflict of two requests, and no verdict.
            E::AlreadyExists { .. } if self.action == WRITE => self.failing(url, error),
            E::AlreadyExists { .. } | E::Precondition { .. } => StoreError::Exists { url },
            E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } => {
                StoreError::Denied { url, endpoint: self.endpoint.map(str::to_owned), source }
            }
            error => {
                if let Some(endpoint) = self.endpoint {
                    if cause::<HttpError>(&error).is_some_and(never_answered) {
                        let (endpoint, source) = (endpoint.to_owned(), Box::new(error));
                        return StoreError::Unreachable { endpoint, url, source };
                    }
                    if text.contains("status code: 5") && !text.contains("status code: 501") {
                        return self.failing(url, error);
                    }
                }
                let (kind, source) = (cause::<io::Error>(&error).map(io::Error::kind), error);
                let (source, endpoint): (Cause, _) = (Box::new(source), None);
                use io::ErrorKind as K;
                match kind {
                    Some(K::PermissionDenied | K::ReadOnlyFilesystem) => {
                        StoreError::Denied { url, endpoint, source }
                    }
                    Some(K::StorageFull | K::QuotaExceeded) => {
                        StoreError::Full { url, endpoint, source }
                    }
                    _ => StoreError::Other { action: self.action, url, source },
                }
            }
        }
    }

    fn failing(&self, url: String, error: object_store::Error) -> StoreError {
        let (action, source) = (self.action, Box::new(error));
        match self.endpoint.map(str::to_owned) {
            Some(endpoint) => StoreError::Failing { action, endpoint, url, source },
            None => StoreError::Other { action, url, source },
        }
    }
}

fn never_answered(error: &HttpError) -> bool {
    matches!(
        error.kind(),
        HttpErrorKind::Connect
            | HttpErrorKind::Request
            | HttpErrorKind::Timeout
            | HttpErrorKind::Interrupted
    )
}

/// The first error of type `T` in the chain.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
