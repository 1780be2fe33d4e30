//! What the tests of stores and checkpoints share: a real S3 server in this process, and samples.

#![expect(dead_code, unreachable_pub, reason = "each test file uses its own share")]

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use convoy_common::config::RunConfig;
use convoy_common::dataset::DatasetIdentity;
use convoy_common::store::{Limits, Settings, Store};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;

pub const BUCKET: &str = "convoy";
const KEY: &str = "AKIATEST";
const SECRET: &str = "test-secret";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Whole,
    WithoutConditions,
}

/// An S3 server on loopback that checks signatures; ends with the test's runtime.
pub struct S3 {
    pub endpoint: String,
    folder: TempDir,
    kind: Kind,
    /// Requests that it is at.
    busy: Arc<AtomicUsize>,
}

impl S3 {
    pub async fn start() -> Self {
        Self::start_as(Kind::Whole).await
    }

    /// One that writes over what is there, whatever the request's conditions are.
    pub async fn start_without_conditions() -> Self {
        Self::start_as(Kind::WithoutConditions).await
    }

    async fn start_as(kind: Kind) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
        let mut service = S3ServiceBuilder::new(files);
        if kind == Kind::Whole {
            service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let service = service.build();
        let busy: Arc<AtomicUsize> = Arc::default();
        let at = Arc::clone(&busy);
        let service = service_fn(move |mut request: Request<Incoming>| {
            if kind == Kind::WithoutConditions {
                request.headers_mut().remove("if-none-match");
            }
            // What a client has asked for is done although it goes away meanwhile, as other servers do.
            let (call, busy) = (Service::call(&service, request), Arc::clone(&at));
            busy.fetch_add(1, Ordering::AcqRel);
            let answer = tokio::spawn(async move {
                let answer = call.await;
                busy.fetch_sub(1, Ordering::AcqRel);
                answer
            });
            async { answer.await.unwrap_or_else(|error| resume_unwind(error.into_panic())) }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { endpoint, folder, kind, busy }
    }

    /// Whether it is at no request now.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }

    pub fn settings(&self) -> Settings {
        let mut settings = settings(&self.endpoint, SECRET);
        if self.kind == Kind::WithoutConditions {
            // The header that this server drops would be missed by whoever checks signatures.
            settings.variables.insert("AWS_SKIP_SIGNATURE".to_owned(), "true".to_owned());
        }
        settings
    }

    /// Where the server keeps an object of this name, bucket and all.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self, prefix: &str) -> Store {
        Store::open_with(&format!("s3://{BUCKET}/{prefix}"), &self.settings()).unwrap()
    }
}

/// Access to `endpoint` with the right key id and the given secret; limits small enough for tests.
pub fn settings(endpoint: &str, secret: &str) -> Settings {
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", "us-east-1"),
    ];
    let variables: BTreeMap<String, String> =
        variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    Settings { variables, limits: Limits { probe: Duration::from_secs(10), ..Limits::default() } }
}

/// A folder that is a store.
pub fn folder() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path().join("a run").to_str().unwrap()).unwrap();
    (folder, store)
}

pub fn config() -> RunConfig {
    serde_json::from_value(serde_json::json!({
        "run": { "name": "test", "url": "file:///tmp/run", "seed": 7 },
        "data": { "url": "file:///tmp/data", "decode_threads": 0, "prefetch": 4 },
        "model": {
            "name": "alexnet", "groups": 2, "narrow": 1, "dropout": 0.5, "init": "gaussian",
            "conv_bias": 1.0, "fc_bias": 1.0, "pixel_scale": 1.0,
        },
        "train": {
            "epochs": 90, "max_steps": null, "batch": 128, "lr": 0.01, "momentum": 0.9,
            "weight_decay": 0.0005, "optimizer": "sgd", "lars_trust": 0.001,
        },
        "schedule": {
            "kind": "steps", "drops": [{ "epoch": 30, "factor": 0.1 }], "warmup_epochs": 0,
            "warmup_steps": 0, "warmup_from": 0.1,
        },
        "numerics": {
            "microbatch": 32, "threads_per_lane": 1, "head_exchange": "auto", "reduction": "fast",
            "precision": "fp32",
        },
        "evaluation": { "every_epochs": 1 },
        "checkpoint": { "every_steps": 100, "every_epochs": 1, "keep_last": 3 },
        "cluster": {
            "workers": 2, "bind": "127.0.0.1:0", "insecure": false, "join_timeout": "1m",
            "prepare_timeout": "1m", "liveness_timeout": "3s", "ring_timeout": "30s",
            "ring_chunk": 262_144,
        },
        "log": { "every_steps": 10, "folder": "logs/{run}" },
    }))
    .unwrap()
}

pub fn dataset() -> DatasetIdentity {
    serde_json::from_value(serde_json::json!({
        "digest": "d1", "train": 1000, "validation": 100, "classes": 10,
    }))
    .unwrap()
}
