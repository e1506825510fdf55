//! Limits of the machine: open files and memory.

use crate::vocabulary::error::StartError;
#[cfg(unix)]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit for open files to the hard limit if it is below `needed`; returns the old and
/// the new soft limit if it did.
///
/// It raises to the hard limit and not to `needed`, because the program opens files as well.
#[cfg(unix)]
pub(super) fn ensure_files(needed: u64) -> Result<Option<(u64, u64)>, StartError> {
    let limit = getrlimit(Resource::Nofile);
    // `None` means no limit.
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if soft >= needed {
        return Ok(None);
    }
    if hard < needed {
        return Err(StartError::open_files(needed, hard));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| StartError::system("setrlimit(NOFILE)", error.into()))?;
    Ok(Some((soft, hard)))
}

/// Windows has no limit for open sockets except memory.
#[cfg(windows)]
#[expect(clippy::unnecessary_wraps, reason = "the same as on other systems")]
pub(super) fn ensure_files(_: u64) -> Result<Option<(u64, u64)>, StartError> {
    Ok(None)
}

/// Available bytes of memory: the minimum over the machine and the control groups of the process.
/// `None` on systems without these files.
pub(super) fn memory_available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    let group = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| text.lines().filter_map(group_limit).min());
    [machine, group].into_iter().flatten().min()
}

/// The limit minus the usage of the control group in one line of `/proc/self/cgroup` (cgroups(7)).
fn group_limit(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, limit, usage) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        names if names.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        }
        _ => return None,
    };
    let read = |group: &std::path::Path, file: &str| {
        let text = std::fs::read_to_string(group.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // The limits of all ancestor groups apply as well.
    let group = std::path::PathBuf::from(format!("{root}{path}"));
    group
        .ancestors()
        .take_while(|above| above.starts_with(root))
        .filter_map(|above| Some(read(above, limit)?.saturating_sub(read(above, usage)?)))
        .min()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_need_above_the_hard_limit_is_refused_with_the_figures() {
        let Some(hard) = getrlimit(Resource::Nofile).maximum else {
            let said =
                writeln!(std::io::stderr(), "skipped, because there is no limit for open files");
            return said.unwrap();
        };
        let error = ensure_files(hard + 1).unwrap_err().to_string();
        assert!(error.contains(&(hard + 1).to_string()) && error.contains("ulimit -Hn"), "{error}");
        assert_eq!(ensure_files(1).unwrap(), None);
    }

    #[test]
    fn the_machine_says_how_much_memory_is_there() {
        assert!(memory_available().unwrap() > 1 << 20);
        assert_eq!(group_limit("7:cpu,cpuacct:/x"), None);
    }
}
