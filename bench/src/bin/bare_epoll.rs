//! A minimal echo server on epoll: `bare_epoll ADDRESS`.
//!
//! One thread, edge-triggered; all connections receive into one buffer of 64 KiB, and each receive is sent
//! immediately. A partial send blocks the thread until the rest is sent: it is for comparison only.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

const LISTENER: u64 = u64::MAX;

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).expect("an address"))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut streams: HashMap<u64, TcpStream> = HashMap::new();
    let mut events = Vec::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for Event { data, .. } in events.drain(..) {
            if data.u64() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let id = u64::try_from(stream.as_raw_fd()).expect("a descriptor");
                    epoll::add(
                        &epoll,
                        &stream,
                        EventData::new_u64(id),
                        EventFlags::IN | EventFlags::ET,
                    )?;
                    streams.insert(id, stream);
                }
            } else if !echo(&streams[&data.u64()], &mut buffer) {
                streams.remove(&data.u64());
            }
        }
    }
}

/// Echoes the bytes that have arrived. False when the connection has ended.
fn echo(stream: &TcpStream, buffer: &mut [u8]) -> bool {
    loop {
        let received = match recv(stream, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((received, _)) => received,
            Err(error) => return error == Errno::AGAIN,
        };
        let mut rest = &buffer[..received];
        while !rest.is_empty() {
            match send(stream, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(stream, PollFlags::OUT)], None);
                }
                Err(_) => return false,
            }
        }
        if received < buffer.len() {
            return true;
        }
    }
}
