//! `convoy prepare` as a process: killed, interrupted, and with an object store at either end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use convoy_common::exit;
use convoy_common::image::{Chroma, Rgb8, encode_jpeg};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustix::process::{Pid, Signal, kill_process};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;

/// How long anything may take here.
const SOON: Duration = Duration::from_secs(120);

const IMAGES: usize = 150;

/// Killed when the test is over.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn ends(&mut self) -> i32 {
        let due = Instant::now() + SOON;
        while Instant::now() < due {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it did not end");
    }
}

fn picture(number: usize) -> Vec<u8> {
    let pixels = (0..400 * 300_usize)
        .flat_map(|at| [(at * (number + 1) / 7) as u8, (at % 400) as u8, (number * 30) as u8])
        .collect();
    encode_jpeg(&Rgb8::new(400, 300, pixels).unwrap(), 90, Chroma::Quarter).unwrap()
}

/// Two classes of a few pictures under many names, some of which are bad.
fn source(folder: &Path) -> PathBuf {
    let pictures: Vec<Vec<u8>> = (0..5).map(picture).collect();
    let source = folder.join("src");
    for class in ["ant", "bee"] {
        std::fs::create_dir_all(source.join(class)).unwrap();
        for number in 0..IMAGES {
            let bytes = &pictures[number % 5];
            let bytes = if number % 10 == 3 { &bytes[..200] } else { &bytes[..] };
            std::fs::write(source.join(class).join(format!("{number}.jpg")), bytes).unwrap();
        }
    }
    source
}

fn prepare(source: &Path, dest: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
    command.arg("prepare").arg(source).arg(dest);
    command.args(["--val-fraction", "0.1", "--shard-size", "64KiB"]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn pages(dest: &Path) -> usize {
    std::fs::read_dir(dest.join("unfinished")).map_or(0, |entries| {
        let is_page = |path: PathBuf| path.extension().is_some_and(|it| it == "bin");
        entries.flatten().filter(|entry| is_page(entry.path())).count()
    })
}

/// Starts it and waits until so many shards are finished; says whether it is still at it.
fn packs_until(source: &Path, dest: &Path, count: usize) -> Process {
    let mut process = Process(prepare(source, dest, &[]).spawn().unwrap());
    let due = Instant::now() + SOON;
    while pages(dest) < count {
        assert!(process.0.try_wait().unwrap().is_none(), "it was over before {count} shards");
        assert!(Instant::now() < due, "it did not come to {count} shards");
        std::thread::sleep(Duration::from_millis(1));
    }
    process
}

/// All files below with their bytes.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                files.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn killed_at_any_moment_it_goes_on_behind_its_finished_shards_to_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let source = source(folder.path());
    let whole = folder.path().join("whole");
    let output = prepare(&source, &whole, &[]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let dest = folder.path().join("killed");
    for count in [2, 6, 11] {
        let mut process = packs_until(&source, &dest, count);
        process.0.kill().unwrap();
        process.0.wait().unwrap();
        assert!(!dest.join("index.bin").exists());
    }
    let kept = pages(&dest);
    let strict = prepare(&source, &dest, &["--on-bad-image", "fail"]).output().unwrap();
    assert_eq!(strict.status.code(), Some(i32::from(exit::BAD_INPUT)), "{}", said(&strict));
    assert!(said(&strict).contains(".jpg: truncated"), "{}", said(&strict));
    let other = prepare(&source, &dest, &["--quality", "70"]).output().unwrap();
    assert_eq!(other.status.code(), Some(i32::from(exit::BAD_INPUT)));
    assert!(said(&other).contains("quality was 90, now 70"), "{}", said(&other));
    assert!(pages(&dest) == kept, "a refusal removes nothing");
    let output = prepare(&source, &dest, &["--threads", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("images were there already"), "{}", said(&output));
    assert!(files(&dest) == files(&whole));
}

#[test]
fn interrupted_it_keeps_what_is_finished_and_says_how_to_go_on() {
    let folder = TempDir::new().unwrap();
    let source = source(folder.path());
    let dest = folder.path().join("it's here");
    let mut process = packs_until(&source, &dest, 2);
    kill_process(Pid::from_child(&process.0), Signal::INT).unwrap();
    assert_eq!(process.ends(), i32::from(exit::STOPPED));
    let mut text = String::new();
    std::io::Read::read_to_string(process.0.stderr.as_mut().unwrap(), &mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("hint: go on with: "));
    let line = line.unwrap_or_else(|| panic!("no command in {text}"));
    assert!(text.contains("stopped by SIGINT"), "{text}");
    let output = Command::new("sh").arg("-c").arg(line).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("images were there already"), "{}", said(&output));
    assert!(dest.join("index.bin").exists() && pages(&dest) == 0);
}

#[test]
fn one_whose_destination_a_restart_takes_over_ends_with_an_error_and_damages_nothing() {
    let folder = TempDir::new().unwrap();
    let source = source(folder.path());
    let dest = folder.path().join("dest");
    let mut process = packs_until(&source, &dest, 2);
    let pid = Pid::from_child(&process.0);
    kill_process(pid, Signal::STOP).unwrap();
    let second = prepare(&source, &dest, &["--restart"]).output().unwrap();
    assert!(second.status.success(), "{}", said(&second));
    kill_process(pid, Signal::CONT).unwrap();
    assert_ne!(process.ends(), i32::from(exit::OK));
    let mut verify = Command::new(env!("CARGO_BIN_EXE_convoy"));
    let verified = verify.args(["dataset", "verify"]).arg(&dest).output().unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
}

/// A tar of the given files.
fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn official_tars_and_class_folders_in_an_object_store_are_packed_into_one() {
    let folder = TempDir::new().unwrap();
    let bucket = folder.path().join("bucket");
    let classes = ["n00000001", "n00000002"];
    let member = |class: usize, number: usize| {
        (format!("{}_{number}.JPEG", classes[class]), picture(class * 2 + number % 2))
    };
    let class_tar = |class| tar_of(&(0..4).map(|n| member(class, n)).collect::<Vec<_>>());
    let train: Vec<_> = (0..2).map(|it| (format!("{}.tar", classes[it]), class_tar(it))).collect();
    let name = |number: usize| format!("ILSVRC2012_val_{number:08}.JPEG");
    let val: Vec<_> = (1..4).map(|number| (name(number), picture(number))).collect();
    std::fs::create_dir_all(bucket.join("raw")).unwrap();
    std::fs::write(bucket.join("raw/ILSVRC2012_img_train.tar"), tar_of(&train)).unwrap();
    std::fs::write(bucket.join("raw/ILSVRC2012_img_val.tar"), tar_of(&val)).unwrap();
    std::fs::write(
        bucket.join("raw/val.txt"),
        format!("{} 0\n{} 1\n{} 1\n", name(1), name(2), name(3)),
    )
    .unwrap();
    for (class, split) in [(0, "train"), (1, "train"), (0, "val"), (1, "val")] {
        let folder = bucket.join("folders").join(split).join(classes[class]);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..3 {
            let (name, bytes) = member(class, number);
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let endpoint = runtime.block_on(serve(folder.path()));
    for (source, counts) in
        [("raw", "8 to train on, 3 held out"), ("folders", "6 to train on, 6 held")]
    {
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
            command.args(arguments).stdin(Stdio::null());
            command.env("AWS_ENDPOINT_URL", &endpoint).env("AWS_REGION", "us-east-1");
            command.env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "secret");
            command.output().unwrap()
        };
        let (from, to) = (format!("s3://bucket/{source}"), format!("s3://bucket/packed/{source}"));
        let output = run(&["prepare", &from, &to, "--shard-size", "64KiB"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(counts), "{}", said(&output));
        let output = run(&["dataset", "verify", &to]);
        assert!(output.status.success(), "{}", said(&output));
        let local = folder.path().join(format!("local-{source}"));
        let output = run(&[
            "prepare",
            bucket.join(source).to_str().unwrap(),
            local.to_str().unwrap(),
            "--shard-size",
            "64KiB",
        ]);
        assert!(output.status.success(), "{}", said(&output));
        let index = std::fs::read(bucket.join("packed").join(source).join("index.bin")).unwrap();
        assert!(std::fs::read(local.join("index.bin")).unwrap() == index, "the same bytes");
    }
}

/// An S3 server on loopback for the buckets below a folder; ends with the test's runtime.
async fn serve(folder: &Path) -> String {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    service.set_auth(SimpleAuth::from_single("AKIATEST", "secret"));
    let service = service.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
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
    endpoint
}
