//! What the processes of a drill hold of the machine: memory and open files, over their lives, and who
//! is left at the end. Linux tells it in /proc; elsewhere nothing is known.

use std::collections::BTreeMap;
use std::fs;

use super::cluster::MARK;
use super::process::Who;

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Resident memory, bytes.
    pub(super) memory: u64,
    /// Open files, sockets included.
    pub(super) files: u64,
}

/// Of one life of a process: at the first and at the last look, and how many looks there were.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) first: Held,
    pub(super) last: Held,
    pub(super) most: Held,
    pub(super) looks: u32,
}

/// All lives that were looked at.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    lives: BTreeMap<(Who, u32), Life>,
    over: Vec<(Who, Life)>,
}

impl Vitals {
    /// Takes in one look.
    pub(super) fn saw(&mut self, who: Who, life: u32, now: Held) {
        let life = self.lives.entry((who, life)).or_insert(Life {
            first: now,
            last: now,
            most: now,
            looks: 0,
        });
        life.last = now;
        life.most.memory = life.most.memory.max(now.memory);
        life.most.files = life.most.files.max(now.files);
        life.looks += 1;
    }

    /// That life is over.
    pub(super) fn ended(&mut self, who: Who, life: u32) {
        if let Some(it) = self.lives.remove(&(who, life)) {
            self.over.push((who, it));
        }
    }

    /// The life with the most looks of the coordinator, and of any worker: what leaks shows in those
    /// that lived through the most.
    pub(super) fn longest(&self) -> Vec<(Who, Life)> {
        let all =
            || self.over.iter().copied().chain(self.lives.iter().map(|(it, life)| (it.0, *life)));
        let longest = |of: fn(&Who) -> bool| {
            all().filter(|(who, _)| of(who)).max_by_key(|(_, life)| life.looks)
        };
        let coordinator = longest(|who| *who == Who::Coordinator);
        let worker = longest(|who| matches!(who, Who::Worker(_)));
        coordinator.into_iter().chain(worker).collect()
    }
}

/// What the process holds now.
pub(super) fn of(pid: u32) -> Option<Held> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |it| it.count() as u64);
    Some(Held { memory: kilobytes * 1024, files })
}

/// Processes that carry this drill's mark, other than the drill itself: whoever was started by it or by
/// those it started. One that waits to be reaped is none.
pub(super) fn marked(mark: &str) -> Vec<String> {
    let wanted = format!("{MARK}={mark}");
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in all.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|it| it.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // Those of other users cannot be read, and are not ours.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environment.split(|it| *it == 0).any(|it| it == wanted.as_bytes()) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("process {pid}: {}", command.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(memory: u64) -> Held {
        Held { memory, files: memory / 10 }
    }

    #[test]
    fn the_life_with_the_most_looks_is_the_one_that_is_reported() {
        let mut vitals = Vitals::default();
        for memory in [100, 300, 200] {
            vitals.saw(Who::Worker(0), 1, held(memory));
        }
        vitals.ended(Who::Worker(0), 1);
        vitals.saw(Who::Worker(0), 2, held(50));
        vitals.saw(Who::Coordinator, 1, held(10));
        let longest = vitals.longest();
        assert_eq!(longest[0].0, Who::Coordinator);
        let (who, life) = longest[1];
        assert_eq!((who, life.looks), (Who::Worker(0), 3));
        assert_eq!((life.first, life.last, life.most), (held(100), held(200), held(300)));
    }

    #[test]
    fn this_process_holds_something() {
        let held = of(std::process::id()).unwrap();
        assert!(held.memory > 1 << 20 && held.files > 2, "{held:?}");
    }
}
