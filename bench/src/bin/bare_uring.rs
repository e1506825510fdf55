//! A minimal echo server on io_uring: `bare_uring ADDRESS BUFFERS BUFFER_BYTES`.
//!
//! One thread, one ring, a multishot receive for each connection with one ring of provided buffers; the received bytes are sent from
//! their buffer. No limits, no timeouts, no partial sends beyond `MSG_WAITALL`: it is for comparison only.

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

const ACCEPT: u64 = u64::MAX;
const GROUP: u16 = 0;
const SEND: u64 = 1 << 63;

/// The provided buffers, and their ring.
struct Provided {
    entries: *mut BufRingEntry,
    count: u16,
    buffer_bytes: usize,
    memory: Vec<u8>,
    tail: u16,
}

impl Provided {
    fn new(ring: &IoUring, count: u16, buffer_bytes: usize) -> std::io::Result<Self> {
        let layout = std::alloc::Layout::from_size_align(
            usize::from(count) * size_of::<BufRingEntry>(),
            4096,
        )
        .expect("a layout");
        // SAFETY: the layout is not empty.
        let entries = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<BufRingEntry>();
        // SAFETY: the memory has `count` entries and is never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, count, GROUP, 0) }?;
        let memory = vec![0; usize::from(count) * buffer_bytes];
        let mut provided = Self { entries, count, buffer_bytes, memory, tail: 0 };
        (0..count).for_each(|id| provided.provide(id));
        Ok(provided)
    }

    fn address(&self, id: u16) -> *const u8 {
        self.memory[usize::from(id) * self.buffer_bytes..].as_ptr()
    }

    fn provide(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` < `count`, and the kernel reads an entry only once the tail has passed it.
        let entry = unsafe { &mut *self.entries.add(index) };
        entry.set_addr(self.address(id) as u64);
        entry.set_len(u32::try_from(self.buffer_bytes).expect("a length"));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: an aligned u16 within the first entry, which only this thread writes.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let listener = TcpListener::bind(args.next().expect("an address"))?;
    let count: u16 = args.next().and_then(|n| n.parse().ok()).expect("a number of buffers");
    let buffer_bytes: usize =
        args.next().and_then(|n| n.parse().ok()).expect("a length of buffers");
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(16_384)
        .build(4096)?;
    let mut provided = Provided::new(&ring, count, buffer_bytes)?;
    let mut waiting = Vec::new();
    push(&mut ring, &opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build().user_data(ACCEPT));
    let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(16_384);
    loop {
        ring.submit_and_wait(1)?;
        completions.extend(ring.completion());
        for completion in completions.drain(..) {
            let (tag, result) = (completion.user_data(), completion.result());
            if tag == ACCEPT {
                no_delay(result);
                push(&mut ring, &receive(result));
            } else if tag & SEND != 0 {
                provided.provide(u16::try_from(tag & 0xffff).expect("16 bits"));
                waiting.drain(..).for_each(|socket| push(&mut ring, &receive(socket)));
            } else {
                received(&mut ring, &provided, &mut waiting, tag, &completion);
            }
        }
    }
}

fn received(
    ring: &mut IoUring,
    provided: &Provided,
    waiting: &mut Vec<i32>,
    tag: u64,
    completion: &cqueue::Entry,
) {
    let socket = i32::try_from(tag).expect("a descriptor");
    if completion.result() == -libc::ENOBUFS {
        waiting.push(socket);
        return;
    }
    let Ok(len @ 1..) = u32::try_from(completion.result()) else {
        // SAFETY: the descriptor is this connection's, which ends here.
        unsafe { libc::close(socket) };
        return;
    };
    let id = cqueue::buffer_select(completion.flags()).expect("a provided buffer");
    let send = opcode::Send::new(Fd(socket), provided.address(id), len)
        .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
    push(ring, &send.build().user_data(SEND | u64::from(id)));
    if !cqueue::more(completion.flags()) {
        push(ring, &receive(socket));
    }
}

fn receive(socket: i32) -> squeue::Entry {
    let tag = u64::try_from(socket).expect("a descriptor");
    opcode::RecvMulti::new(Fd(socket), GROUP).build().user_data(tag)
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: sends point into the provided buffers, which are never freed, and a buffer is provided again only after its send.
    while unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit().expect("io_uring_enter");
    }
}

fn no_delay(socket: i32) {
    let on: libc::c_int = 1;
    // SAFETY: an option of one int, passed with its length.
    unsafe {
        libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const on).cast(), 4);
    }
}
