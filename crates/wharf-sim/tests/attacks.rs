//! Many clients that send the beginning of a message, or read nothing, or both, beside fifty that wait
//! for echoes, in simulated time: the waits of the fifty are exact, without the load of other programs.

#![cfg(test)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use wharf::sim::{
    Client, Faults, Next, Script, SimClient, SimConfig, SimFailure, Simulation, Time,
};
use wharf::{Handler, Input, LengthPrefix, Link, Result, SendError, Server};

const HONEST: usize = 50;
const ROUNDS: usize = 20;
/// With so many attackers a whole frame is echoed in time: one after the other they borrow the buffers
/// that it needs, and are closed when they have held them for `loan_wait`.
const FEW: u32 = 300;
/// A whole frame, as long as a link may have unread.
const FRAME: usize = 64 * 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Echoes frames: the length of the body, four bytes, and the body. A frame stays unread if there is no
/// capacity for its echo.
struct Frames;

const FRAMES: LengthPrefix = LengthPrefix::new(4, FRAME - 4);

impl Handler for Frames {
    fn on_receive(&self, link: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        let Some(body) = input.frame(FRAMES)? else { return Ok(()) };
        match link.out.send(FRAMES.of(body)) {
            Ok(()) => {}
            Err(SendError::Full) => input.rewind(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn frame(len: usize) -> Vec<u8> {
    let body = u32::try_from(len - 4).unwrap();
    body.to_be_bytes()
        .into_iter()
        .chain((4..len).map(|offset| u8::try_from(offset % 251).unwrap()))
        .collect()
}

/// The waits that clients measured.
type Noted = Rc<RefCell<Vec<Duration>>>;

/// Sends a frame, waits for its echo, and notes the time; `rounds` times.
struct Echoer {
    frame: Vec<u8>,
    begins: Time,
    sent: usize,
    read: usize,
    asked: Time,
    rounds: usize,
    waits: Noted,
}

impl Client for Echoer {
    fn ready(&mut self, connection: &mut SimClient, now: Time) -> Result<Next, String> {
        if now < self.begins {
            return Ok(Next::Sleep(self.begins));
        }
        loop {
            if self.sent == 0 {
                self.asked = now;
            }
            if let Ok(count) = connection.try_write(&self.frame[self.sent..]) {
                self.sent += count;
            }
            let mut buffer = [0; 4_096];
            match connection.try_read(&mut buffer) {
                Ok(0) => return Ok(Next::EndedEarly("by an end of stream".to_owned())),
                Ok(count) => {
                    if self.frame.get(self.read..self.read + count) != Some(&buffer[..count]) {
                        return Err(format!("wrong bytes at {}", self.read));
                    }
                    self.read += count;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(Next::Wait);
                }
                Err(error) => return Ok(Next::EndedEarly(error.to_string())),
            }
            if self.read == self.frame.len() {
                self.waits.borrow_mut().push(now.duration_since(self.asked));
                (self.sent, self.read, self.rounds) = (0, 0, self.rounds - 1);
                if self.rounds == 0 {
                    return Ok(Next::Close);
                }
            }
        }
    }

    fn waits_for(&self) -> String {
        format!("byte {} of {}", self.read, self.frame.len())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientBehavior {
    /// Sends half of a frame, and no more.
    Incomplete,
    /// Sends frames, and reads nothing.
    NeverReads,
    /// Sends frames and half of one, and reads nothing.
    Both,
}

impl ClientBehavior {
    fn script(self) -> Script {
        let whole = frame(8_000).repeat(12);
        let half = frame(FRAME)[..FRAME / 2].to_vec();
        let sent = match self {
            Self::Incomplete => half,
            Self::NeverReads => whole,
            Self::Both => [whole, half].concat(),
        };
        Script::new().send(sent).pause(3_600 * SECOND).reset()
    }
}

/// The waits of the honest clients, sorted; of a later one with a small frame, and of one with a whole
/// frame.
struct Waits {
    honest: Vec<Duration>,
    small: Option<Duration>,
    whole: Option<Duration>,
}

fn attack(shards: u32, attackers: u32, behavior: ClientBehavior) -> Result<Waits, SimFailure> {
    let mut config = SimConfig::new(u64::from(shards) + u64::from(attackers) * 100);
    let builder = Server::builder(Frames)
        .frames(FRAMES)
        .shards(shards)
        .links_max(attackers + 64)
        .stall_timeout(Duration::ZERO)
        .idle_timeout(Duration::ZERO);
    config.provides_buffers = attackers % 200 == 100;
    config.faults = Faults::none();
    config.faults.socket_buffer_bytes = 16 * 1024;
    let mut sim = Simulation::with_config(config, builder);
    for _ in 0..attackers {
        sim.connect(behavior.script());
    }
    let settled = Duration::from_millis(500);
    let until = sim.now().saturating_add(settled);
    let honest = Noted::default();
    let echoer = |len, begins: Time, rounds, waits: &Noted| Echoer {
        frame: frame(len),
        begins,
        sent: 0,
        read: 0,
        asked: begins,
        rounds,
        waits: Rc::clone(waits),
    };
    for _ in 0..HONEST {
        sim.connect(echoer(64, until, ROUNDS, &honest));
    }
    let [small, whole] = [(); 2].map(|()| Noted::default());
    let later = until.saturating_add(SECOND / 2);
    let mut last = sim.connect(echoer(64, later, 1, &small));
    if attackers <= FEW {
        last = sim.connect(echoer(FRAME, later, 1, &whole));
    }
    sim.run_until(|sim| {
        let is_over = honest.borrow().len() == HONEST * ROUNDS && sim.has_ended(last);
        is_over || sim.now() > later.saturating_add(4 * SECOND)
    })?;
    let mut honest = honest.take();
    honest.sort_unstable();
    let only = |waits: &Noted| waits.borrow().first().copied();
    Ok(Waits { honest, small: only(&small), whole: only(&whole) })
}

#[test]
fn attackers_that_hold_all_buffers_they_can_do_not_delay_echoes() {
    for shards in [1, 2, 3, 8] {
        let alone = attack(shards, 0, ClientBehavior::NeverReads).unwrap();
        let [median, p99] = [50, 99].map(|part| percentile(&alone.honest, part));
        let most = [3 * median, 3 * p99.max(HICCUP_MAX)];
        for behavior in
            [ClientBehavior::Incomplete, ClientBehavior::NeverReads, ClientBehavior::Both]
        {
            for attackers in [FEW, 1_000, 3_000] {
                let waits = attack(shards, attackers, behavior).unwrap_or_else(|failure| {
                    panic!("{shards} shards, {attackers} {behavior:?}: {failure}")
                });
                let waited = [50, 99].map(|part| percentile(&waits.honest, part));
                let told = format!(
                    "{shards} shards, {attackers} {behavior:?}: median and p99 {waited:?}, alone \
                     {median:?} and {p99:?}; a small newcomer {:?}, a whole frame {:?}",
                    waits.small, waits.whole
                );
                println!("{told}");
                assert_eq!(waits.honest.len(), HONEST * ROUNDS, "{told}");
                assert!(waited[0] <= most[0] && waited[1] <= most[1], "{told}");
                assert!(waits.small.is_some_and(|wait| wait < 2 * SECOND), "{told}");
                if attackers <= FEW {
                    assert!(waits.whole.is_some_and(|wait| wait < 3 * SECOND), "{told}");
                }
            }
        }
    }
}

/// The wait that `part` of a hundred do not exceed.
fn percentile(waits: &[Duration], part: usize) -> Duration {
    waits[waits.len() * part / 100]
}

/// Maximum delay of a simulated turn, as if another program used the core.
const HICCUP_MAX: Duration = Duration::from_millis(1);
