//! An S3 server on loopback, for trying Convoy with an object store without one:
//!
//! ```text
//! mkdir -p buckets/convoy
//! cargo run -p convoy-common --example s3_server buckets 9000
//! AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=convoy \
//!     AWS_SECRET_ACCESS_KEY=convoy AWS_REGION=us-east-1 convoy launch ...
//! ```
//!
//! Buckets are the folders in the one that is named, objects the files in them. It is s3s-fs, as in
//! the tests: signatures are checked, and create-only writes hold for writers in turn.

#![expect(clippy::print_stdout, reason = "says where it listens")]

use std::error::Error;
use std::panic::resume_unwind;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(port)) = (arguments.next(), arguments.next()) else {
        return Err("usage: s3_server FOLDER PORT (0: any free one)".into());
    };
    let files = s3s_fs::FileSystem::new(&folder).map_err(|error| format!("{folder}: {error:?}"))?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single("convoy", "convoy"));
    let service = service.build();
    // What a client has asked for is done although it goes away meanwhile, as other servers do.
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = tokio::spawn(Service::call(&service, request));
        async { answer.await.unwrap_or_else(|error| resume_unwind(error.into_panic())) }
    });
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        let service = service.clone();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A client that goes away is its own affair.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
