//! An HTTP proxy that misbehaves as it is told, between a client and a real S3 server.

#![expect(unreachable_pub, reason = "a module of tests has no readers but them")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Another status, with an empty body.
    Status(u16),
    /// The connection is closed before anything comes.
    Refuse,
    /// It is closed after so many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after so many bytes of the body; `usize::MAX`: not even the head.
    StallAfter(usize),
    /// A well-formed answer whose body lacks its second half, and whose head agrees.
    Short,
    /// One bit of the body is another.
    Flip,
    /// So many bytes every 10 ms.
    Drip(usize),
    /// It comes after so many milliseconds.
    Late(u64),
    /// The answer of a server that knows no ranges.
    Whole,
}

/// A request, as the plan sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its number among those for objects, from 0.
    pub number: usize,
    pub path: String,
    pub range: Option<(u64, u64)>,
}

type Plan = Arc<dyn Fn(&Asked) -> Option<Mishap> + Send + Sync>;

/// The proxy; ends with the test's runtime.
#[derive(Clone)]
pub struct Proxy {
    pub endpoint: String,
    plan: Arc<Mutex<Plan>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// What happens to all requests whose path has this in it.
    outage: Arc<Mutex<Option<(String, Mishap)>>>,
}

impl Proxy {
    /// In front of `upstream`, an endpoint of this machine; harmless at first.
    pub async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let plan: Plan = Arc::new(|_| None);
        let (plan, asked, outage) = (Arc::new(Mutex::new(plan)), Arc::default(), Arc::default());
        let proxy = Self { endpoint, plan, asked, outage };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (this, upstream) = (this.clone(), upstream.clone());
                // A client that goes away is none of the proxy's business.
                tokio::spawn(async move { this.serve(client, &upstream).await.ok() });
            }
        });
        proxy
    }

    /// From now on, this happens to answers with a part of an object.
    pub fn plan(&self, plan: impl Fn(&Asked) -> Option<Mishap> + Send + Sync + 'static) {
        self.asked.lock().unwrap().clear();
        *self.plan.lock().unwrap() = Arc::new(plan);
    }

    /// From now on this happens to requests of every kind whose path has `touching` in it; nothing:
    /// all goes well again.
    pub fn fail(&self, touching: &str, mishap: Option<Mishap>) {
        *self.outage.lock().unwrap() = mishap.map(|it| (touching.to_owned(), it));
    }

    /// Requests for parts of objects since the plan was made.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// One request for each connection: both ends are told that it will be closed.
    async fn serve(&self, mut client: TcpStream, upstream: &str) -> std::io::Result<()> {
        let (head, rest) = read_head(&mut client).await?;
        let mishap = self.judge(&head);
        match mishap {
            Some(Mishap::Refuse) => return Ok(()),
            Some(Mishap::StallAfter(usize::MAX)) => return stall(client).await,
            Some(Mishap::Status(status)) => {
                let left = header(&head, "content-length").unwrap_or(0).saturating_sub(rest.len());
                tokio::io::copy(&mut (&mut client).take(left as u64), &mut tokio::io::sink())
                    .await?;
                let answer = format!(
                    "HTTP/1.1 {status} Mishap\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                return client.write_all(answer.as_bytes()).await;
            }
            _ => {}
        }
        let mut server = TcpStream::connect(upstream).await?;
        let kept = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
        let lines: Vec<&str> = head.lines().filter(kept).collect();
        let request = format!("{}\r\nconnection: close\r\n\r\n", lines.join("\r\n"));
        server.write_all(request.as_bytes()).await?;
        server.write_all(&rest).await?;
        let body_left = (header(&head, "content-length").unwrap_or(0)).saturating_sub(rest.len());
        tokio::io::copy(&mut (&mut client).take(body_left as u64), &mut server).await?;

        let (head, mut body) = read_head(&mut server).await?;
        server.read_to_end(&mut body).await?;
        if let Some(Mishap::Late(milliseconds)) = mishap {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        answer(client, head, body, mishap).await
    }

    fn judge(&self, head: &str) -> Option<Mishap> {
        let path = head.split(' ').nth(1)?.to_owned();
        let outage = self.outage.lock().unwrap().clone();
        if let Some((touching, mishap)) = outage
            // What is listed stands in the query.
            && path.replace("%2F", "/").contains(&touching)
        {
            return Some(mishap);
        }
        let range = head.lines().find_map(|line| {
            let line = line.to_ascii_lowercase();
            let (start, end) = line.strip_prefix("range: bytes=")?.trim().split_once('-')?;
            Some((start.parse().ok()?, end.parse::<u64>().ok()? + 1))
        });
        range?;
        let mut all = self.asked.lock().unwrap();
        let asked = Asked { number: all.len(), path, range };
        all.push(asked.clone());
        drop(all);
        let plan = Arc::clone(&self.plan.lock().unwrap());
        plan(&asked)
    }
}

async fn answer(
    mut client: TcpStream,
    mut head: String,
    mut body: Vec<u8>,
    mishap: Option<Mishap>,
) -> std::io::Result<()> {
    match mishap {
        Some(Mishap::Flip) => {
            let middle = body.len() / 2;
            body[middle] ^= 8;
        }
        Some(Mishap::Whole) => {
            let kept = |line: &&str| !line.to_ascii_lowercase().starts_with("content-range:");
            let lines: Vec<&str> = head.lines().skip(1).filter(kept).collect();
            head = format!("HTTP/1.1 200 OK\r\n{}", lines.join("\r\n"));
        }
        Some(Mishap::Short) => {
            body.truncate(body.len() / 2);
            let lines: Vec<String> = head
                .lines()
                .map(|line| match line.to_ascii_lowercase().starts_with("content-length:") {
                    true => format!("content-length: {}", body.len()),
                    false => line.to_owned(),
                })
                .collect();
            head = lines.join("\r\n");
        }
        _ => {}
    }
    client.write_all(format!("{head}\r\n\r\n").as_bytes()).await?;
    match mishap {
        Some(Mishap::CutAfter(bytes)) => {
            client.write_all(&body[..bytes.min(body.len())]).await?;
            Ok(())
        }
        Some(Mishap::StallAfter(bytes)) => {
            client.write_all(&body[..bytes.min(body.len())]).await?;
            stall(client).await
        }
        Some(Mishap::Drip(bytes)) => {
            for drop in body.chunks(bytes.max(1)) {
                client.write_all(drop).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        }
        _ => client.write_all(&body).await,
    }
}

/// Holds the connection until the client closes it.
async fn stall(mut client: TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    while client.read(&mut byte).await? > 0 {}
    Ok(())
}

/// Up to the empty line, without it, and what came behind it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            bytes.truncate(end);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn header(head: &str, name: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().parse().ok())?
    })
}
