//! A free TCP port on the loopback interface.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Below the range from which the kernel takes ports for outgoing connections (32768 up): a server that is stopped and
/// started again must find its port still free, although clients connected elsewhere in between.
const PORTS: std::ops::Range<u32> = 12_000..32_000;

/// A port that nobody listens on, and that this process has not been given before.
///
/// Two processes begin their search far apart, so they rarely try the same port. A server that does find its port taken fails to bind, and
/// says so.
///
/// # Errors
/// When every port of the range is taken.
pub fn free_port() -> Result<u16> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let length = PORTS.end - PORTS.start;
    let first = std::process::id().wrapping_mul(7919);
    for _ in 0..length {
        let offset = first.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % length;
        let Ok(port) = u16::try_from(PORTS.start + offset) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", PORTS.start, PORTS.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 100);
    }
}
