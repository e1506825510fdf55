//! The memory that the machine has for the server.

use crate::vocabulary::error::{StartError, readable};
#[cfg(unix)]
use rustix::process::{Resource, getrlimit};
use std::path::Path;
use wharf_port::memory::Reservation;

/// Memory that the server may still take, and what limits it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Available {
    bytes: u64,
    /// Behind "are available", such as "on this machine".
    limit: String,
    /// How to raise it; empty if there is no other way than less.
    remedy: &'static str,
}

/// Checks that `needed` bytes of memory are there, and what so many threads take, so that a start for
/// which there is too little fails before it has taken any. If another thread takes it afterwards, the
/// allocation of a table fails, which is an error of the start as well.
///
/// # Errors
///
/// The limit that is too low.
pub(super) fn check_memory(needed: u64, threads: u32) -> Result<(), StartError> {
    let mut all: Vec<(u64, Available)> = Vec::new();
    all.extend(machine().into_iter().chain(control_groups()).map(|available| (needed, available)));
    all.extend(process_limits(needed, threads.into()));
    let lack = all.into_iter().filter(|(needed, available)| available.bytes < *needed);
    if let Some((needed, available)) = lack.min_by_key(|(_, available)| available.bytes) {
        let Available { bytes, limit, remedy } = available;
        return Err(StartError::memory(needed, bytes, &limit, remedy));
    }
    // What no limit says, as where the system promises no more memory than it has.
    let size = with_threads(needed, threads.into());
    Reservation::new(size).map(drop).map_err(|error| StartError::buffers(&error))
}

/// What is allocated beside the tables and buffers that a plan counts: by the program, and by a thread
/// with its stack, for which std takes 2 MiB.
fn with_threads(needed: u64, threads: u64) -> u64 {
    needed.saturating_add(1 << 20).saturating_add(threads * ((2 << 20) + (1 << 19)))
}

/// Addresses that the C library's allocator takes for each thread (twice the `HEAP_MAX_SIZE` of glibc's
/// malloc, half of them for a moment). It does without if there are too few, and tries again later:
/// then tables would find none.
#[cfg(unix)]
const HEAP_BYTES: u64 = 128 << 20;

/// `None` on systems without the file.
fn machine() -> Option<Available> {
    let bytes = kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(Available { bytes, limit: "on this machine".to_owned(), remedy: "" })
}

/// The bytes in a line of proc_meminfo(5) or proc_pid_status(5).
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// RLIMIT_AS and RLIMIT_DATA, each with what it must allow.
#[cfg(unix)]
fn process_limits(needed: u64, threads: u64) -> Vec<(u64, Available)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let data = with_threads(needed, threads);
    let addresses = data.saturating_add(threads * HEAP_BYTES);
    let limits = [
        // The heap, and a stack.
        (
            Resource::As,
            addresses,
            "VmSize:",
            "addresses (RLIMIT_AS), of which each thread takes 130 MiB",
            "raise it (ulimit -v, LimitAS=)",
        ),
        (Resource::Data, data, "VmData:", "data (RLIMIT_DATA)", "raise it (ulimit -d, LimitDATA=)"),
    ];
    let available = |(resource, needed, used, name, remedy)| {
        let limit = getrlimit(resource).current?;
        let bytes = limit.saturating_sub(kib_of(&status, used).unwrap_or(0));
        Some((needed, Available { bytes, limit: of_limit(limit, name), remedy }))
    };
    limits.into_iter().filter_map(available).collect()
}

#[cfg(not(unix))]
fn process_limits(_: u64, _: u64) -> Vec<(u64, Available)> {
    Vec::new()
}

fn of_limit(limit: u64, name: &str) -> String {
    format!("within the limit of {} of {name}", readable(limit))
}

/// The limits of the process's control groups and their ancestors.
fn control_groups() -> Vec<Available> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().flat_map(|line| of_group(Path::new("/sys/fs/cgroup"), line)).collect()
}

/// The files of a group's memory controller.
struct GroupFiles {
    limit: &'static str,
    usage: &'static str,
    /// Names in `memory.stat` of what the kernel takes back from the group when it needs memory: page
    /// cache, and on v2 also its own caches.
    reclaimable: &'static [&'static str],
}

const V1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file ", "total_active_file "],
};
const V2: GroupFiles = GroupFiles {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: &["inactive_file ", "active_file ", "slab_reclaimable "],
};

/// The limits of the control group in one line of `/proc/self/cgroup` (cgroups(7)), and of its
/// ancestors. The file system is mounted at `mount`.
fn of_group(mount: &Path, line: &str) -> Vec<Available> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (root, files) = match controllers {
        "" => (mount.to_owned(), V2),
        names if names.split(',').any(|name| name == "memory") => (mount.join("memory"), V1),
        _ => return Vec::new(),
    };
    // In a container the group's own folder can be mounted as the root; that is an ancestor, too.
    let group = root.join(path.trim_start_matches('/'));
    let groups = group.ancestors().take_while(|above| above.starts_with(&root));
    groups.filter_map(|group| files.available(group)).collect()
}

impl GroupFiles {
    /// `None` without a limit.
    fn available(&self, group: &Path) -> Option<Available> {
        let read = |file: &str| std::fs::read_to_string(group.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        // v1 says "no limit" by the largest number of whole pages.
        let limit = number(self.limit).filter(|limit| *limit < 1 << 62)?;
        let stat = read("memory.stat").unwrap_or_default();
        let counted = |name: &&str| stat.lines().find_map(|line| line.strip_prefix(*name));
        let reclaimable = self.reclaimable.iter().filter_map(counted);
        let reclaimable: u64 = reclaimable.filter_map(|text| text.trim().parse::<u64>().ok()).sum();
        let used = number(self.usage)?.saturating_sub(reclaimable);
        let name = format!("the control group ({})", group.join(self.limit).display());
        let remedy = "raise it (memory.max, MemoryMax=, docker run --memory)";
        Some(Available { bytes: limit.saturating_sub(used), limit: of_limit(limit, &name), remedy })
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A file system of control groups that is made up, and removed when it is dropped.
    struct Groups(PathBuf);

    impl Groups {
        fn new(name: &str) -> Self {
            let name = format!("wharf-groups-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn available(&self, line: &str) -> Vec<u64> {
            of_group(&self.0, line).iter().map(|available| available.bytes).collect()
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn page_cache_of_a_group_counts_as_available_in_v2() {
        let groups = Groups::new("v2");
        groups.write("a/b/memory.max", "64000000\n");
        groups.write("a/b/memory.current", "63600000\n");
        groups.write(
            "a/b/memory.stat",
            "anon 9000000\nfile 54000000\ninactive_file 40000000\nactive_file 13000000\n\
             slab_reclaimable 600000\nslab 700000\n",
        );
        groups.write("a/memory.max", "max\n");
        groups.write("memory.max", "90000000\n");
        groups.write("memory.current", "10000000\n");
        assert_eq!(groups.available("0::/a/b"), [54_000_000, 80_000_000]);
        let text = of_group(&groups.0, "0::/a/b").remove(0).limit;
        assert!(text.contains("64.0 MB") && text.contains("a/b/memory.max"), "{text}");
    }

    #[test]
    fn page_cache_of_a_group_counts_as_available_in_v1() {
        let groups = Groups::new("v1");
        groups.write("memory/a/memory.limit_in_bytes", "64000000\n");
        groups.write("memory/a/memory.usage_in_bytes", "63600000\n");
        groups.write(
            "memory/a/memory.stat",
            "inactive_file 1\ntotal_inactive_file 40000000\ntotal_active_file 13000000\n",
        );
        groups.write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        groups.write("memory/memory.usage_in_bytes", "70000000\n");
        assert_eq!(groups.available("4:memory:/a"), [53_400_000]);
        // The group's folder is the root of what is mounted in a container.
        groups.write("memory/memory.limit_in_bytes", "100000000\n");
        assert_eq!(groups.available("4:cpu,memory:/docker/c0ffee"), [30_000_000]);
        assert_eq!(groups.available("7:cpu,cpuacct:/a"), [0; 0]);
        assert_eq!(groups.available("nonsense"), [0; 0]);
    }

    #[test]
    fn the_machine_says_how_much_memory_is_there() {
        assert!(machine().unwrap().bytes > 1 << 20);
    }
}
