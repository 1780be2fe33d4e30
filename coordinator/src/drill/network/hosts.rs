//! A host that exists only for its network: a namespace, and whoever keeps it there.
//!
//! A namespace without a name lives as long as a process is in it. That process is a `cat`: it ends
//! with the pipe that it reads, so with the drill, however that ends, and with it go the namespace, its
//! interfaces and its filters. Nothing is written to the file system.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::launch::tether;

/// For a program that sets up something to be done.
const DEADLINE: Duration = Duration::from_secs(10);

/// A network namespace.
#[derive(Debug)]
pub(super) struct Host {
    pid: u32,
    /// Ends when this is dropped.
    _keeper: Child,
}

impl Host {
    /// A new one, with nothing in it.
    ///
    /// # Errors
    /// Why there can be none, in words.
    pub(super) async fn new() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "cat"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tether::tether(&mut command);
        let mut keeper = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let pid = keeper.id().unwrap_or_default();
        let (Some(to), Some(from)) = (&mut keeper.stdin, &mut keeper.stdout) else {
            return Err("unshare has no pipes".to_owned());
        };
        // It answers once it is in the namespace.
        let mut answer = [0];
        let greeted = async {
            to.write_all(b"\n").await?;
            from.read_exact(&mut answer).await
        };
        match timeout(DEADLINE, greeted).await {
            Ok(Ok(_)) => Ok(Self { pid, _keeper: keeper }),
            Ok(Err(_)) => Err(ended(keeper).await?),
            Err(_) => Err("unshare does not answer".to_owned()),
        }
    }

    /// Id by which other namespaces' tools know it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// A command that executes `program` here; its arguments come behind those that there are.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid)).arg("--").arg(program);
        command
    }

    /// Has `ip` do all these things here.
    pub(super) async fn ip(&self, lines: &[String]) -> Result<(), String> {
        let mut command = self.command(Path::new("ip"));
        command.args(["-batch", "-"]);
        run("ip", command, &lines.join("\n")).await
    }

    /// Has `nft` do all these things here, or none of them.
    pub(super) async fn nft(&self, rules: &str) -> Result<(), String> {
        let mut command = self.command(Path::new("nft"));
        command.args(["-f", "-"]);
        run("nft", command, rules).await
    }
}

/// Has `ip` do all these things where the drill itself is.
pub(super) async fn ip_here(lines: &[String]) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    run("ip", command, &lines.join("\n")).await
}

/// Whether the drill's own host has an address within `range`.
pub(super) async fn is_taken(range: &str) -> Result<bool, String> {
    let mut command = Command::new("ip");
    command.args(["-oneline", "address", "show", "to", range]).stdin(Stdio::null());
    let shown = timeout(DEADLINE, command.kill_on_drop(true).output()).await;
    let shown = shown.map_err(|_| "ip does not end".to_owned())?;
    Ok(!shown.map_err(|error| format!("ip: {error}"))?.stdout.is_empty())
}

async fn run(name: &str, mut command: Command, input: &str) -> Result<(), String> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    tether::tether(&mut command);
    let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    let work = async {
        if let Some(mut to) = child.stdin.take() {
            // One that does not read its input says why by its end.
            let _ = to.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(DEADLINE, work).await.map_err(|_| format!("{name} does not end"))?;
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(words(name, &output.stderr)) }
}

/// What it said before its end.
async fn ended(keeper: Child) -> Result<String, String> {
    let output = timeout(DEADLINE, keeper.wait_with_output()).await;
    let output = output.map_err(|_| "it does not end".to_owned())?;
    Ok(output.map_or_else(|error| error.to_string(), |it| words("unshare", &it.stderr)))
}

/// The first line of what a program complained of, behind its name.
fn words(name: &str, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).find(|it| !it.is_empty()).unwrap_or("failed");
    if line.starts_with(name) { line.to_owned() } else { format!("{name}: {line}") }
}
