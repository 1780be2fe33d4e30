//! Where the coordinator listens, as it tells its launcher through a file.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// Waits until the coordinator has written where it listens; it writes the file by renaming.
pub(super) async fn written_in(file: PathBuf) -> String {
    loop {
        if let Ok(text) = std::fs::read_to_string(&file)
            && let Some(address) = reachable(text.trim())
        {
            return address;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The address by which this machine reaches a listener: one on all interfaces is on loopback too.
fn reachable(listens: &str) -> Option<String> {
    let (host, port) = listens.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|it| *it != 0)?;
    Some(match host {
        "0.0.0.0" => format!("127.0.0.1:{port}"),
        "[::]" => format!("[::1]:{port}"),
        host => format!("{host}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_on_all_interfaces_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:7000").as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(reachable("[::]:7000").as_deref(), Some("[::1]:7000"));
        assert_eq!(reachable("10.0.0.7:7000").as_deref(), Some("10.0.0.7:7000"));
    }

    #[test]
    fn half_an_address_is_not_taken() {
        for text in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999"] {
            assert_eq!(reachable(text), None, "{text}");
        }
    }
}
