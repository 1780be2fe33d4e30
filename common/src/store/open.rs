//! From a URL to a backend: which one, with what credentials, and how long it may take.

use std::collections::BTreeMap;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::{Store, StoreError};

/// How long a remote store may take, and how often a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For one connection to come up.
    pub connect: Duration,
    /// For one request with its whole body; bodies are at most [`super::PIECE`] bytes on the hot
    /// paths.
    pub request: Duration,
    /// Tries after the first.
    pub retries: usize,
    /// No further try starts after this.
    pub retry_for: Duration,
    /// Longest pause between two tries.
    pub longest_pause: Duration,
    /// For the whole of [`Store::probe`].
    pub probe: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            request: Duration::from_secs(60),
            retries: 5,
            retry_for: Duration::from_secs(20),
            longest_pause: Duration::from_secs(2),
            probe: Duration::from_secs(15),
        }
    }
}

/// What opening a store depends on beyond its URL.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Deadlines.
    pub limits: Limits,
    /// The `AWS_*` variables: keys, region, endpoint, `AWS_ALLOW_HTTP` and so on.
    pub variables: BTreeMap<String, String>,
}

impl Settings {
    /// Default limits and this process's `AWS_*` variables.
    pub fn from_env() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(key, value)| key.starts_with("AWS_") && !value.is_empty())
            .collect();
        Self { limits: Limits::default(), variables }
    }
}

pub(super) fn open(url: &str, settings: &Settings) -> Result<Store, StoreError> {
    let bad = |reason: String| StoreError::BadUrl { url: url.to_owned(), reason };
    if url.is_empty() {
        return Err(bad("it is empty".to_owned()));
    }
    if let Some(rest) = url.strip_prefix("s3://") {
        return open_s3(url, rest, settings);
    }
    if url.starts_with("file:") {
        let parsed = Url::parse(url).map_err(|error| bad(error.to_string()))?;
        let folder = parsed.to_file_path().map_err(|()| {
            bad("a file URL holds an absolute path, with three slashes".to_owned())
        })?;
        return open_folder(url, &folder, settings);
    }
    if let Some((scheme, _)) = url.split_once("://") {
        return Err(bad(format!("unknown scheme {scheme}://; known are file:// and s3://")));
    }
    let folder = std::path::absolute(url).map_err(|error| bad(error.to_string()))?;
    open_folder(url, &without_dots(&folder), settings)
}

/// `/a/c` of `/a/b/../c`, as URLs have it.
fn without_dots(path: &FilePath) -> PathBuf {
    let mut short = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            short.pop();
        } else {
            short.push(part);
        }
    }
    short
}

/// A folder need not exist: the first write makes it, so that reading from a mistyped path leaves
/// nothing behind.
fn open_folder(url: &str, folder: &FilePath, settings: &Settings) -> Result<Store, StoreError> {
    let bad = |reason: String| StoreError::BadUrl { url: url.to_owned(), reason };
    if folder.exists() && !folder.is_dir() {
        return Err(bad("it is a file, not a folder".to_owned()));
    }
    let prefix = Path::from_absolute_path(folder).map_err(|error| bad(error.to_string()))?;
    let canonical = Url::from_file_path(folder)
        .map_err(|()| bad("its path is not absolute".to_owned()))?
        .to_string();
    // Written files are synced: a manifest must not outlive its parts in a power cut.
    let backend: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new().with_fsync(true));
    Ok(Store {
        single: Arc::clone(&backend),
        backend,
        bucket: None,
        prefix,
        url: canonical.trim_end_matches('/').into(),
        endpoint: None,
        limits: settings.limits,
        fenced: true,
    })
}

fn open_s3(url: &str, rest: &str, settings: &Settings) -> Result<Store, StoreError> {
    let bad = |reason: String| StoreError::BadUrl { url: url.to_owned(), reason };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    if bucket.is_empty() {
        return Err(bad("it names no bucket".to_owned()));
    }
    let key = Path::parse(prefix).map_err(|error| bad(error.to_string()))?;

    let mut builder = AmazonS3Builder::new();
    for (name, value) in &settings.variables {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .find_map(|name| settings.variables.get(*name));
    let mut options = ClientOptions::new().with_connect_timeout(settings.limits.connect);
    if let Some(endpoint) = endpoint {
        let parsed = Url::parse(endpoint)
            .map_err(|error| bad(format!("the endpoint {endpoint} is no URL: {error}")))?;
        let allowed = settings.variables.get("AWS_ALLOW_HTTP").is_some_and(|it| it == "true");
        if parsed.scheme() == "http" && !allowed && !is_loopback(&parsed) {
            return Err(bad(format!(
                "the endpoint {endpoint} is plain http beyond this machine; AWS_ALLOW_HTTP=true \
                 allows that"
            )));
        }
        options = options.with_allow_http(parsed.scheme() == "http");
        builder = builder
            .with_endpoint(endpoint.trim_end_matches('/'))
            .with_virtual_hosted_style_request(false);
    }
    let limits = settings.limits;
    let builder =
        builder.with_bucket_name(bucket).with_conditional_put(S3ConditionalPut::ETagMatch);
    let retry = |max_retries| RetryConfig {
        backoff: BackoffConfig { max_backoff: limits.longest_pause, ..Default::default() },
        max_retries,
        retry_timeout: limits.retry_for,
    };
    let backend = builder
        .clone()
        .with_retry(retry(limits.retries))
        .with_client_options(options.clone().with_timeout(limits.request))
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let single = builder
        .with_retry(retry(0))
        .with_client_options(options.with_timeout_disabled())
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let url = if prefix.is_empty() {
        format!("s3://{bucket}")
    } else {
        format!("s3://{bucket}/{prefix}")
    };
    let region = settings.variables.get("AWS_REGION").map_or("us-east-1", String::as_str);
    let endpoint =
        endpoint.map_or_else(|| format!("https://s3.{region}.amazonaws.com"), Clone::clone);
    let bucket = Arc::new(backend);
    Ok(Store {
        backend: Arc::clone(&bucket) as Arc<dyn ObjectStore>,
        single: Arc::new(single),
        bucket: Some(bucket),
        prefix: key,
        url: url.into(),
        endpoint: Some(endpoint.into()),
        limits,
        fenced: true,
    })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(url: &str, variables: &[(&str, &str)]) -> String {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings = Settings { variables, ..Settings::default() };
        match open(url, &settings) {
            Err(StoreError::BadUrl { reason, .. }) => reason,
            other => panic!("expected a bad URL, got {other:?}"),
        }
    }

    #[test]
    fn an_unknown_scheme_is_refused_with_the_known_ones() {
        assert_eq!(
            reason("gs://bucket/x", &[]),
            "unknown scheme gs://; known are file:// and s3://"
        );
    }

    #[test]
    fn a_url_without_its_main_part_is_refused() {
        assert_eq!(reason("", &[]), "it is empty");
        assert_eq!(reason("s3:///prefix", &[]), "it names no bucket");
        assert!(reason("file://relative/path", &[]).contains("three slashes"));
        assert!(reason("s3://bucket/a//b", &[]).contains("empty path segment"));
    }

    #[test]
    fn a_file_is_no_store() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(reason(file.path().to_str().unwrap(), &[]), "it is a file, not a folder");
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_allowed() {
        let remote = ("AWS_ENDPOINT_URL", "http://192.0.2.1:9000");
        assert!(reason("s3://bucket", &[remote]).contains("plain http"));
        for variables in [
            vec![remote, ("AWS_ALLOW_HTTP", "true")],
            vec![("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")],
            vec![("AWS_ENDPOINT", "http://localhost:9000/")],
        ] {
            let variables =
                variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let settings = Settings { variables, ..Settings::default() };
            open("s3://bucket", &settings).unwrap();
        }
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_refused() {
        assert!(reason("s3://bucket", &[("AWS_ENDPOINT_URL", "nonsense")]).contains("no URL"));
    }

    #[test]
    fn urls_come_out_in_one_form() {
        let settings = Settings::default();
        assert_eq!(open("s3://b/x/y/", &settings).unwrap().url(), "s3://b/x/y");
        assert_eq!(open("/tmp/a/../../b/./c/..", &settings).unwrap().url(), "file:///b");
        assert_eq!(
            open("/tmp/convoy runs/", &settings).unwrap().url(),
            "file:///tmp/convoy%20runs"
        );
        assert_eq!(
            open("file:///tmp/convoy%20runs", &settings).unwrap().url(),
            "file:///tmp/convoy%20runs"
        );
        assert_eq!(open("s3://b", &settings).unwrap().within("runs/a").url(), "s3://b/runs/a");
    }
}
