//! What can fail, and what it means for the link.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use wharf_port::memory::MemoryError;
use wharf_port::port::PortError;

/// What callbacks and programs return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Any error: `?` takes every `E: std::error::Error + Send + Sync`.
///
/// For that it is not a `std::error::Error` itself (as `anyhow::Error`); `?` turns it into a `Box`
/// of one. A text becomes one by [`Error::msg`]. This crate's errors, `io::Error` and constant texts
/// are kept without an allocation, others in a box.
///
/// `{:?}`, which `fn main() -> Result` prints, is the text with its remedy, and the causes.
pub struct Error {
    inner: Inner,
}

enum Inner {
    Send(SendError),
    Post(PostError),
    TooLong(TooLong),
    Io(io::Error),
    Text(Cow<'static, str>),
    Other(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// An error that is only a text. A constant one allocates nothing.
    #[must_use]
    pub fn msg(text: impl Into<Cow<'static, str>>) -> Self {
        Self { inner: Inner::Text(text.into()) }
    }

    /// An error that is boxed already, as `anyhow` and many libraries return it.
    #[must_use]
    pub fn from_boxed(error: Box<dyn StdError + Send + Sync>) -> Self {
        Self { inner: Inner::Other(error) }
    }

    /// What it means for the link whose callback returned it. Only the error itself counts, not its
    /// sources: an error of the program's own is [`ErrorKind::Handler`] whatever it wraps.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.inner {
            Inner::Send(SendError::Full) => ErrorKind::OutputFull,
            Inner::TooLong(_) => ErrorKind::Limit,
            _ => ErrorKind::Handler,
        }
    }

    fn as_std(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.inner {
            Inner::Send(error) => Some(error),
            Inner::Post(error) => Some(error),
            Inner::TooLong(error) => Some(error),
            Inner::Io(error) => Some(error),
            Inner::Other(error) => Some(&**error),
            Inner::Text(_) => None,
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        /// Takes the error out as what it is; decided at compile time.
        fn take<T: 'static>(slot: &mut dyn Any) -> Option<T> {
            slot.downcast_mut::<Option<T>>()?.take()
        }
        let mut slot = Some(error);
        let inner = if let Some(error) = take(&mut slot) {
            Inner::Send(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::Post(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::TooLong(error)
        } else if let Some(error) = take(&mut slot) {
            Inner::Io(error)
        } else {
            Inner::Other(slot.map_or_else(|| unreachable!(), |error: E| Box::new(error)))
        };
        Self { inner }
    }
}

impl From<Error> for Box<dyn StdError + Send + Sync> {
    fn from(error: Error) -> Self {
        match error.inner {
            Inner::Send(error) => error.into(),
            Inner::Post(error) => error.into(),
            Inner::TooLong(error) => error.into(),
            Inner::Io(error) => error.into(),
            Inner::Text(text) => text.into(),
            Inner::Other(error) => error,
        }
    }
}

impl From<Error> for Box<dyn StdError> {
    fn from(error: Error) -> Self {
        Box::<dyn StdError + Send + Sync>::from(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Text(text) => f.write_str(text),
            _ => self.as_std().map_or(Ok(()), |error| fmt::Display::fmt(error, f)),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.as_std().and_then(StdError::source);
        while let Some(error) = cause {
            write!(f, "\ncaused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// What an [`Error`] means for the link whose callback returned it. In each case what is queued is
/// sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The handler queued more than there was capacity for: [`SendError::Full`].
    OutputFull,
    /// The peer sent too much: [`TooLong`].
    Limit,
    /// Anything else.
    Handler,
}

/// Bytes were not queued on a link. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no capacity now; there will be when the peer has read.
    Full,
    /// The output can never hold it.
    TooLarge,
    /// The link is closing, or its output is finished.
    Closed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => {
                "the link's output is full; call `out.ensure(n)` before sending more than the \
                 grant, or raise Builder::grant_bytes"
            }
            Self::TooLarge => {
                "the message is larger than an output; raise Builder::output_bytes, or send it in \
                 parts"
            }
            Self::Closed => "the link is closing",
        })
    }
}

impl StdError for SendError {}

/// Something for others was not posted. Returned from a callback, it is an error as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError {
    /// The receiver's inbox or output is full, or the shared buffers are used up.
    Full,
    /// The receiver can never hold it.
    TooLarge,
    /// The receiver is closed.
    Closed,
    /// The server is stopping: what is posted now would come too late.
    Stopping,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => {
                "the receiver's inbox or output is full, or no post buffer is free; try again \
                 later, raise Builder::output_bytes or Builder::buffer_count, or share one Message"
            }
            Self::TooLarge => {
                "the message is larger than the receiver's output; raise Builder::output_bytes, or \
                 post it in parts"
            }
            Self::Closed => "the receiver is closed",
            Self::Stopping => "the server is stopping",
        })
    }
}

impl StdError for PostError {}

/// The peer sent something longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    max: usize,
}

impl TooLong {
    /// For decoders: more than `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max }
    }

    /// How many bytes are allowed.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer's message is longer than {} bytes", self.max)
    }
}

impl StdError for TooLong {}

/// The server did not start. Nothing is left behind: no thread, no socket, no memory.
///
/// The text ends with what to do.
pub struct StartError {
    kind: StartErrorKind,
    text: String,
    source: Option<io::Error>,
}

impl StartError {
    /// What was wrong.
    #[must_use]
    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }

    fn new(kind: StartErrorKind, text: String, source: Option<io::Error>) -> Self {
        Self { kind, text, source }
    }

    /// All faults of the settings at once.
    pub(crate) fn settings(faults: &[String]) -> Self {
        Self::new(StartErrorKind::Settings, format!("settings: {}", faults.join("; ")), None)
    }

    /// An address could not be understood or found.
    pub(crate) fn address(given: &str, source: io::Error) -> Self {
        let text = format!(
            "cannot listen on {given:?}: {source}; write an address such as 127.0.0.1:9527 or \
             [::1]:9527"
        );
        Self::new(StartErrorKind::Address, text, Some(source))
    }

    /// The system did not let the server listen on `address`, one of those that `given` stands for.
    pub(crate) fn listen(
        given: &str,
        address: SocketAddr,
        holder: Holder,
        source: io::Error,
    ) -> Self {
        let named = match address.to_string() {
            text if text == given => text,
            text => format!("{given} ({text})"),
        };
        let (kind, reason) = match source.kind() {
            io::ErrorKind::AddrInUse => (StartErrorKind::Address, holder.reason(address)),
            io::ErrorKind::AddrNotAvailable if address.is_ipv6() && ipv6_is_off(&source) => {
                (StartErrorKind::Address, IPV6_IS_OFF.to_owned())
            }
            io::ErrorKind::AddrNotAvailable => {
                let text = format!(
                    "not an address of this machine; use one of those ({SHOW_ADDRESSES}), or \
                     0.0.0.0 for all IPv4 addresses, or [::] for all IPv6 addresses"
                );
                (StartErrorKind::Address, text)
            }
            io::ErrorKind::PermissionDenied => {
                (StartErrorKind::Address, format!("permission denied; {BIND_REMEDY}"))
            }
            _ => match lacks(address) {
                Some(text) => (StartErrorKind::Address, text),
                None => (StartErrorKind::Resources, source.to_string()),
            },
        };
        Self::new(kind, format!("cannot listen on {named}: {reason}"), Some(source))
    }

    /// The hard limit for open files is below what this server, the other servers of the process and
    /// the program need.
    #[cfg(unix)]
    pub(crate) fn open_files(own: u64, others: u64, program: u64, limit: u64) -> Self {
        let needed = own + others + program;
        let others = match others {
            0 => String::new(),
            _ => format!("{others} for other servers of this process, "),
        };
        let text = format!(
            "{needed} open files are needed ({own} for this server, {others}{program} for the \
             program), but the hard limit is {limit}; raise it (ulimit -Hn, LimitNOFILE=), or use \
             fewer links"
        );
        Self::new(StartErrorKind::Resources, text, None)
    }

    /// A limit of memory is below what the settings add up to.
    pub(crate) fn memory(needed: u64, available: u64, limit: &str, remedy: &str) -> Self {
        let (needed, available) = (readable(needed), readable(available));
        let remedy = if remedy.is_empty() { String::new() } else { format!("{remedy}, or ") };
        let text = format!(
            "the settings need {needed} of memory, but {available} are available {limit}; \
             {remedy}use fewer links or shards, or fewer or smaller buffers"
        );
        Self::new(StartErrorKind::Resources, text, None)
    }

    /// There is no memory of this size for `what`.
    pub(crate) fn allocation(what: &str, size_bytes: u64, source: &dyn fmt::Display) -> Self {
        let text = format!(
            "cannot allocate {} of memory for {what}: {source}; {MEMORY_REMEDY}use fewer links or \
             shards, or fewer or smaller buffers",
            readable(size_bytes)
        );
        Self::new(StartErrorKind::Resources, text, None)
    }

    /// There is no memory for buffers or a table.
    pub(crate) fn buffers(error: &MemoryError) -> Self {
        let source = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        Self::allocation(error.what(), error.size_bytes(), &source)
    }

    /// The back end that was asked for is not to be had here.
    pub(crate) fn back_end(name: &str, reason: &str) -> Self {
        let text =
            format!("back end {name} is unavailable: {reason}; `auto` selects one that works");
        Self::new(StartErrorKind::BackEnd, text, None)
    }

    /// `WHARF_BACKEND` names no back end.
    pub(crate) fn back_end_name(reason: &str) -> Self {
        Self::new(StartErrorKind::BackEnd, format!("WHARF_BACKEND: {reason}"), None)
    }

    /// The port of a shard could not be created.
    pub(crate) fn port(error: &PortError) -> Self {
        if let Some(size_bytes) = error.lacking_bytes() {
            let source = io::Error::from_raw_os_error(error.os().code());
            return Self::allocation(error.os().call(), size_bytes, &source);
        }
        let text = format!("cannot create the port of a shard: {error}");
        Self::new(StartErrorKind::BackEnd, text, None)
    }

    /// A thread could not be started.
    pub(crate) fn thread(source: io::Error) -> Self {
        let text = format!("cannot start a thread: {source}; {THREAD_REMEDY}");
        Self::new(StartErrorKind::Resources, text, Some(source))
    }

    /// A callback that makes something at the start failed.
    pub(crate) fn handler(reason: &str) -> Self {
        let text = format!("{reason}; see the error or the panic of the handler");
        Self::new(StartErrorKind::Handler, text, None)
    }

    /// Another system call failed.
    pub(crate) fn system(doing: &'static str, source: io::Error) -> Self {
        let text = format!("{doing}: {source}");
        Self::new(StartErrorKind::Resources, text, Some(source))
    }
}

/// The owner of an address that is in use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    /// The same server: its listener on this address.
    Server(SocketAddr),
    /// Another server of this process.
    Process,
    /// Unknown: another program, or a socket of this one.
    Unknown,
}

impl Holder {
    fn reason(self, address: SocketAddr) -> String {
        let port = address.port();
        match self {
            Self::Server(other) => {
                format!("this server listens on {other} already; give each address once")
            }
            Self::Process => "in use by another server of this process; stop that first, or use \
                              another port"
                .to_owned(),
            Self::Unknown if cfg!(windows) => format!(
                "in use; stop the process that has port {port} (netstat -ano), or use another port"
            ),
            Self::Unknown => format!(
                "in use; stop the process that has the port (as root: ss -tanp 'sport = :{port}'), \
                 or use another port"
            ),
        }
    }
}

/// Whether the system has no IPv6, or it is switched off.
fn ipv6_is_off(source: &io::Error) -> bool {
    let is_off = |file| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1");
    // The error of a missing family was replaced.
    source.raw_os_error().is_none()
        || is_off("/proc/sys/net/ipv6/conf/all/disable_ipv6")
        || is_off("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
}

/// Whether it is an address of several machines, which accepts no connections.
pub(crate) fn is_of_many(ip: IpAddr) -> bool {
    ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The fault of an address on which no socket can listen.
fn lacks(address: SocketAddr) -> Option<String> {
    if is_of_many(address.ip()) {
        return Some(format!(
            "a multicast or broadcast address accepts no connections; use one of this machine \
             ({SHOW_ADDRESSES}), or 0.0.0.0 or [::]"
        ));
    }
    let SocketAddr::V6(address) = address else { return None };
    let (ip, port) = (address.ip(), address.port());
    if let Some(ip) = ip.to_ipv4_mapped() {
        return Some(format!(
            "it is an IPv4 address; write {ip}:{port}, or let IPv6 listeners accept IPv4 \
             (Builder::dual_stack)"
        ));
    }
    match address.scope_id() {
        0 if ip.is_unicast_link_local() => Some(format!(
            "a link-local address needs its interface ({SHOW_ADDRESSES}); write it as \
             [{ip}%eth0]:{port}"
        )),
        0 => None,
        scope => Some(format!("there is no interface {scope} ({SHOW_ADDRESSES})")),
    }
}

/// Bytes with a unit: `999 B`, `32.5 MB`.
pub(crate) fn readable(bytes: u64) -> String {
    let mut unit = (1, "B");
    for larger in
        [(1_000, "kB"), (1_000_000, "MB"), (1_000_000_000, "GB"), (1_000_000_000_000, "TB")]
    {
        if bytes >= larger.0 {
            unit = larger;
        }
    }
    match unit {
        (1, name) => format!("{bytes} {name}"),
        (size, name) => format!("{}.{} {name}", bytes / size, bytes % size * 10 / size),
    }
}

#[cfg(not(windows))]
const IPV6_IS_OFF: &str = "IPv6 is switched off on this machine; use an IPv4 address, or switch it on \
                           (sysctl net.ipv6.conf.all.disable_ipv6=0; kernel option ipv6.disable=0)";
#[cfg(windows)]
const IPV6_IS_OFF: &str = "IPv6 is switched off on this machine; use an IPv4 address";
#[cfg(not(windows))]
const SHOW_ADDRESSES: &str = "ip addr";
#[cfg(windows)]
const SHOW_ADDRESSES: &str = "ipconfig";
#[cfg(not(windows))]
const BIND_REMEDY: &str = "use a port above 1023, or grant the capability CAP_NET_BIND_SERVICE";
/// Windows has no privileged ports; it denies those that it reserves, or that are used exclusively.
#[cfg(windows)]
const BIND_REMEDY: &str =
    "use a port that is not reserved (netsh int ip show excludedportrange protocol=tcp)";
#[cfg(not(windows))]
const MEMORY_REMEDY: &str =
    "raise the limits (ulimit -v, ulimit -d, vm.overcommit_ratio of vm.overcommit_memory=2), or ";
#[cfg(windows)]
const MEMORY_REMEDY: &str = "";
#[cfg(not(windows))]
const THREAD_REMEDY: &str = "use fewer shards, or raise the limits for processes and addresses (ulimit -u, pids.max, ulimit -v)";
#[cfg(windows)]
const THREAD_REMEDY: &str = "use fewer shards";

/// What kept a server from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// Settings that contradict each other; all of them are named. Also: the guarantee of all links
    /// needs more buffers than there are; a declared frame is longer than the input limit.
    Settings,
    /// An address: not understood, in use, not available here, not permitted.
    Address,
    /// The machine has too little memory, open files, locked memory or threads.
    Resources,
    /// The back end that was asked for.
    BackEnd,
    /// `on_start` or `on_worker_start` returned an error.
    Handler,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for StartError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Mine(SendError);
    impl fmt::Display for Mine {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("mine")
        }
    }
    impl StdError for Mine {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn only_the_error_itself_says_what_it_means() {
        let kind = |error: Error| error.kind();
        assert_eq!(kind(SendError::Full.into()), ErrorKind::OutputFull);
        assert_eq!(kind(SendError::Closed.into()), ErrorKind::Handler);
        assert_eq!(kind(PostError::Full.into()), ErrorKind::Handler);
        assert_eq!(kind(TooLong::new(3).into()), ErrorKind::Limit);
        assert_eq!(kind(Mine(SendError::Full).into()), ErrorKind::Handler);
        assert_eq!(kind(Error::from_boxed("no".into())), ErrorKind::Handler);
    }

    #[test]
    fn ours_are_kept_without_a_box_and_debug_shows_remedy_and_causes() {
        assert!(matches!(Error::from(SendError::Full).inner, Inner::Send(_)));
        assert!(matches!(Error::from(io::Error::other("x")).inner, Inner::Io(_)));
        assert!(size_of::<Result>() <= 32, "{}", size_of::<Result>());
        let wrapped = Error::from(Mine(SendError::Full));
        assert_eq!(format!("{wrapped:?}").lines().count(), 2);
        let boxed: Box<dyn StdError + Send + Sync> = wrapped.into();
        assert_eq!(boxed.to_string(), "mine");
    }

    /// The texts that differ on Windows, where tests start no server.
    #[cfg(windows)]
    #[test]
    fn what_the_system_lacks_is_told_with_a_remedy_of_windows() {
        let text = |address: &str, kind: io::ErrorKind| {
            let parsed = address.parse().unwrap();
            StartError::listen(address, parsed, Holder::Unknown, kind.into()).to_string()
        };
        let texts = [
            text("127.0.0.1:80", io::ErrorKind::PermissionDenied),
            text("192.0.2.1:9527", io::ErrorKind::AddrNotAvailable),
            text("127.0.0.1:9527", io::ErrorKind::AddrInUse),
            StartError::thread(io::ErrorKind::OutOfMemory.into()).to_string(),
            StartError::allocation("tests", 5 << 20, &"no memory").to_string(),
        ];
        assert_eq!(texts.join("\n"), WINDOWS_TEXTS);
        assert_eq!(IPV6_IS_OFF, "IPv6 is switched off on this machine; use an IPv4 address");
    }

    #[cfg(windows)]
    const WINDOWS_TEXTS: &str = "\
cannot listen on 127.0.0.1:80: permission denied; use a port that is not reserved (netsh int ip show \
excludedportrange protocol=tcp)
cannot listen on 192.0.2.1:9527: not an address of this machine; use one of those (ipconfig), or 0.0.0.0 \
for all IPv4 addresses, or [::] for all IPv6 addresses
cannot listen on 127.0.0.1:9527: in use; stop the process that has port 9527 (netstat -ano), or use \
another port
cannot start a thread: out of memory; use fewer shards
cannot allocate 5.2 MB of memory for tests: no memory; use fewer links or shards, or fewer or smaller buffers";

    /// What depends on limits and on how the system was started; `tests/texts.rs` has the others.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_lacks_is_told_with_a_remedy() {
        let alone = StartError::open_files(40, 0, 12, 50).to_string();
        assert_eq!(
            alone,
            "52 open files are needed (40 for this server, 12 for the program), but the hard limit \
             is 50; raise it (ulimit -Hn, LimitNOFILE=), or use fewer links"
        );
        let others = StartError::open_files(40, 30, 12, 50).to_string();
        assert_eq!(
            others,
            "82 open files are needed (40 for this server, 30 for other servers of this process, 12 \
             for the program), but the hard limit is 50; raise it (ulimit -Hn, LimitNOFILE=), or use \
             fewer links"
        );
        let address = "[::1]:9527".parse().unwrap();
        let no_family = io::ErrorKind::AddrNotAvailable.into();
        let off = StartError::listen("localhost:9527", address, Holder::Unknown, no_family);
        assert_eq!(
            off.to_string(),
            "cannot listen on localhost:9527 ([::1]:9527): IPv6 is switched off on this machine; use \
             an IPv4 address, or switch it on (sysctl net.ipv6.conf.all.disable_ipv6=0; kernel \
             option ipv6.disable=0)"
        );
    }
}
