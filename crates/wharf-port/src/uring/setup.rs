//! Setup of a ring with the features that this kernel has; each is probed.

use super::buffer_ring::{BufferRing, SMALL_GROUP};
use crate::memory::pool::{BufferPool, PoolConfig};
use crate::port::error::{OsError, PortError};
use io_uring::{IoUring, Probe, cqueue, opcode, types};
use rustix::fd::AsRawFd;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Checks whether a port on io_uring works on this machine.
///
/// It sets up a small ring, checks the features and operations that the kernel reports, and
/// receives a byte by a multishot receive from a ring of provided buffers.
///
/// # Errors
///
/// The feature that is missing, or the call that failed, with the usual cause.
///
/// # Cost
///
/// A thread and about ten system calls, less than 1 ms; nothing after it has succeeded once. The
/// thread is needed because the kernel, when it frees a ring, interrupts the system call of the
/// thread that used it: the caller's reads would fail with `EINTR`.
pub fn probe() -> Result<(), PortError> {
    static WORKS: AtomicBool = AtomicBool::new(false);
    // Relaxed: no other data depends on the flag.
    if WORKS.load(Ordering::Relaxed) {
        return Ok(());
    }
    let prober = std::thread::Builder::new().name("wharf-probe".to_owned()).spawn(probe_ring);
    let prober = prober.map_err(|error| OsError::from_io("pthread_create", &error))?;
    prober.join().unwrap_or_else(|_| Err(unsupported("io_uring")))?;
    WORKS.store(true, Ordering::Relaxed);
    Ok(())
}

fn probe_ring() -> Result<(), PortError> {
    let ring = build(8, 64, Submitters::One)?;
    let params = ring.params();
    let features = [
        (params.is_feature_nodrop(), "IORING_FEAT_NODROP"),
        (params.is_feature_ext_arg(), "IORING_FEAT_EXT_ARG"),
        (params.is_feature_fast_poll(), "IORING_FEAT_FAST_POLL"),
        (params.is_feature_submit_stable(), "IORING_FEAT_SUBMIT_STABLE"),
    ];
    if let Some((_, name)) = features.iter().find(|(there, _)| !there) {
        return Err(unsupported(name));
    }
    let mut operations = Probe::new();
    ring.submitter()
        .register_probe(&mut operations)
        .map_err(|error| OsError::from_io("io_uring_register(PROBE)", &error))?;
    let needed = [
        (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
        (opcode::Recv::CODE, "IORING_OP_RECV"),
        (opcode::Send::CODE, "IORING_OP_SEND"),
        (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    ];
    if let Some((_, name)) = needed.iter().find(|(code, _)| !operations.is_supported(*code)) {
        return Err(unsupported(name));
    }
    multishot_receive_works(ring)
}

/// The threads that submit to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitters {
    /// The one that created it.
    One,
    /// Any, one at a time.
    OneAfterTheOther,
}

/// A ring for a port with `sockets_max` sockets.
pub(super) fn ring_for(sockets_max: u32, submitters: Submitters) -> Result<IoUring, PortError> {
    probe()?;
    let (submissions, completions) = queue_sizes(sockets_max);
    build(submissions, completions, submitters)
}

/// The entries of the submission and the completion queue of a ring for `sockets_max` sockets.
pub(super) fn queue_sizes(sockets_max: u32) -> (u32, u32) {
    // Between two dequeues a program submits about one send and at most one receive for each socket
    // with a completion. A full queue is submitted early, so it need not hold the worst case.
    let submissions = sockets_max.next_power_of_two().clamp(64, 2048);
    // A send of each socket, and 1,024 receives. The kernel keeps completions that do not fit
    // (IORING_FEAT_NODROP), which costs time.
    let completions = sockets_max.saturating_add(1024);
    (submissions, completions.next_power_of_two().clamp(1024, 65_536))
}

/// Sets up a ring with all flags, and while the kernel returns EINVAL without the newest of them.
///
/// NO_SQARRAY is of Linux 6.6, DEFER_TASKRUN of 6.1, SINGLE_ISSUER of 6.0, COOP_TASKRUN of 5.19,
/// SUBMIT_ALL of 5.18. Without them an echo costs 10 to 30 % more CPU time.
///
/// DEFER_TASKRUN and SINGLE_ISSUER bind a ring to one thread. One that several submit to has
/// COOP_TASKRUN instead: work of the kernel for an operation runs in the thread that submitted it,
/// when that enters the kernel or sleeps in it.
fn build(submissions: u32, completions: u32, submitters: Submitters) -> Result<IoUring, PortError> {
    let one = submitters == Submitters::One;
    let (mut no_sqarray, mut defer, mut single, mut coop, mut submit_all) =
        (true, one, one, !one, true);
    loop {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).setup_clamp().dontfork();
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        if defer {
            builder.setup_defer_taskrun();
        }
        if single {
            builder.setup_single_issuer();
        }
        if coop {
            builder.setup_coop_taskrun();
        }
        if submit_all {
            builder.setup_submit_all();
        }
        match builder.build(submissions) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
                return Err(setup_error(&error));
            }
            Err(_) if no_sqarray => no_sqarray = false,
            Err(_) if defer => (defer, coop) = (false, true),
            Err(_) if single => single = false,
            Err(_) if coop => coop = false,
            Err(_) if submit_all => submit_all = false,
            Err(error) => return Err(setup_error(&error)),
        }
    }
}

fn setup_error(error: &io::Error) -> PortError {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => Some(
            "a seccomp profile (as Docker's default one) or the sysctl kernel.io_uring_disabled \
            forbids io_uring",
        ),
        Some(libc::ENOSYS) => Some("this kernel has no io_uring, or a seccomp profile forbids it"),
        Some(libc::ENOMEM) => Some("raise the limit for locked memory (ulimit -l)"),
        Some(libc::EMFILE | libc::ENFILE) => Some("raise the limit for open files (ulimit -n)"),
        _ => None,
    };
    PortError::new(OsError::from_io("io_uring_setup", error), hint)
}

fn unsupported(call: &'static str) -> PortError {
    PortError::new(OsError::new(call, libc::ENOSYS), Some("this kernel's io_uring is too old"))
}

/// Receives a byte over a socket pair by a multishot receive from a ring of provided buffers.
fn multishot_receive_works(ring: IoUring) -> Result<(), PortError> {
    let config = PoolConfig { buffer_size_bytes: 64, ..PoolConfig::new(2) };
    let pool = BufferPool::new(config).map_err(|_| OsError::new("mmap", libc::ENOMEM))?;
    let mut buffer_ring = BufferRing::new(&ring, SMALL_GROUP, pool, 1)?;
    buffer_ring.refill();
    // Declared after the memory that its operations use, so that it is dropped before it.
    let mut ring = ring;
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| OsError::new("socketpair", error.raw_os_error()))?;
    rustix::io::write(&theirs, b"?").map_err(|e| OsError::new("write", e.raw_os_error()))?;
    let entry = opcode::RecvMulti::new(types::Fd(ours.as_raw_fd()), SMALL_GROUP).build();
    // SAFETY: the entry points to no memory; the descriptor is open until this function ends, and
    // by then the receive has completed, or the ring, which is dropped first, is closed.
    unsafe { ring.submission().push(&entry) }
        .map_err(|_| OsError::new("io_uring_enter", libc::EBUSY))?;
    wait_for_one(&ring)?;
    let Some(done) = ring.completion().next() else {
        return Err(unsupported("IORING_RECV_MULTISHOT"));
    };
    if done.result() != 1 || !cqueue::more(done.flags()) {
        return Err(unsupported("IORING_RECV_MULTISHOT"));
    }
    // End the receive before its buffers are freed: the peer closes, and the last completion
    // follows.
    drop(theirs);
    Ok(wait_for_one(&ring)?)
}

fn wait_for_one(ring: &IoUring) -> Result<(), OsError> {
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(OsError::from_io("io_uring_enter", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_usually_is_the_cause() {
        let hint = |code| setup_error(&io::Error::from_raw_os_error(code)).to_string();
        assert!(hint(libc::EPERM).contains("io_uring_setup"), "{}", hint(libc::EPERM));
        assert!(hint(libc::EPERM).contains("seccomp"));
        assert!(hint(libc::ENOSYS).contains("no io_uring"));
        assert!(hint(libc::ENOMEM).contains("ulimit -l"));
        assert!(unsupported("IORING_FEAT_NODROP").to_string().contains("too old"));
    }
}
