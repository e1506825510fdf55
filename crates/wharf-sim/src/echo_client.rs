//! The client of most workloads: it checks every byte that it reads.

use crate::lines::{LAST, STOPPING};
use crate::plan::{ClientBehavior, ClientPlan, Plan, Requests, Workload};
use std::io::ErrorKind;
use wharf::sim::{Client, Next, SimClient, Time};

/// A number of a client's requests.
type Count = Box<dyn Fn() -> usize>;

pub(crate) struct EchoClient {
    plan: ClientPlan,
    expected: Vec<u8>,
    written: usize,
    read: usize,
    /// It does not write before this time.
    writes_at: Option<Time>,
    /// It does not read before this time.
    reads_at: Option<Time>,
    has_slept: bool,
    /// It has stopped writing once; and it closes at this time.
    has_paused: bool,
    goes_at: Option<Time>,
    finished: bool,
    /// A write has failed, so it writes no more.
    write_failed: bool,
    /// The server echoes each byte.
    is_echo: bool,
    requests: Requests,
    /// Requests with a reply so far.
    answered: Count,
    /// Requests after which the server closes; `usize::MAX` if it does not.
    served: Count,
    /// The server may send that it stops; and how many bytes of that were read.
    is_told_of_stops: bool,
    stopping: usize,
}

impl EchoClient {
    pub(crate) fn new(plan: &Plan, client: usize) -> Self {
        let workload = plan.workload;
        let plan = ClientPlan::for_client(plan, client);
        let requests = match workload {
            Workload::Big => framed_requests(&plan.text, |body| body.reverse()),
            Workload::Framed => framed_requests(&plan.text, |_| {}),
            _ => plan.requests.clone(),
        };
        let is_echo = workload == Workload::Echo;
        let mut expected = if is_echo {
            plan.text[..plan.quit_at.unwrap_or(plan.text.len())].to_vec()
        } else {
            requests.replies.clone()
        };
        let is_told_of_stops = workload == Workload::Lines;
        let finishes = plan.behavior == ClientBehavior::ShutdownEarly;
        if is_told_of_stops && finishes && !requests.closes {
            expected.extend_from_slice(LAST);
        }
        Self {
            is_echo,
            requests,
            plan,
            expected,
            written: 0,
            read: 0,
            writes_at: None,
            reads_at: None,
            has_slept: false,
            has_paused: false,
            goes_at: None,
            finished: false,
            write_failed: false,
            answered: Box::new(|| usize::MAX),
            served: Box::new(|| usize::MAX),
            is_told_of_stops,
            stopping: 0,
        }
    }

    /// Sets the number of requests with a reply so far.
    pub(crate) fn answered(mut self, count: impl Fn() -> usize + 'static) -> Self {
        self.answered = Box::new(count);
        self
    }

    /// Sets the number of requests after which the server closes, if that is not `usize::MAX`.
    pub(crate) fn served(mut self, count: impl Fn() -> usize + 'static) -> Self {
        self.served = Box::new(count);
        self
    }

    /// Bytes before the end of the server's stream.
    fn expected_len(&self) -> usize {
        match (self.served)() {
            usize::MAX => self.expected.len(),
            served => self.requests.replies_to(served, usize::MAX),
        }
    }

    fn waits_for_end(&self) -> bool {
        let closes = self.requests.closes || (self.served)() < usize::MAX;
        closes || self.plan.quit_at.is_some() || self.finished
    }

    /// Writes until it would block. Returns when to continue, if the time decides.
    fn write(&mut self, connection: &mut SimClient, now: Time) -> Option<Time> {
        if let ClientBehavior::DelayWriting(time) = self.plan.behavior {
            self.writes_at.get_or_insert(now.saturating_add(time));
        }
        while self.written < self.plan.text.len() && !self.write_failed {
            if let Some(time) = self.writes_at.filter(|time| *time > now) {
                return Some(time);
            }
            let mut until = self.plan.text.len();
            if let ClientBehavior::Pauses(at, time) = self.plan.behavior
                && !self.has_paused
            {
                if self.written >= at {
                    self.has_paused = true;
                    self.writes_at = Some(now.saturating_add(time));
                    continue;
                }
                until = until.min(at);
            }
            let rest = &self.plan.text[self.written..until];
            match connection.try_write(&rest[..rest.len().min(self.plan.chunk)]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // The bytes that were read show whether that is right.
                Err(_) => self.write_failed = true,
            }
            if !self.plan.pace.is_zero() {
                self.writes_at = Some(now.saturating_add(self.plan.pace));
            }
        }
        if self.plan.behavior == ClientBehavior::ShutdownEarly && !self.finished {
            self.finished = true;
            connection.shutdown_write();
        }
        None
    }

    /// Reads until it would block, or ends.
    fn read(&mut self, connection: &mut SimClient, now: Time) -> Result<Option<Next>, String> {
        let mut buffer = [0; 4096];
        loop {
            match self.plan.behavior {
                ClientBehavior::Vanishes(resets) if self.written == self.plan.text.len() => {
                    return Ok(Some(if resets { Next::Reset } else { Next::Close }));
                }
                ClientBehavior::LeaveAfter(at, resets) if self.read >= at => {
                    return Ok(Some(if resets { Next::Reset } else { Next::Close }));
                }
                ClientBehavior::PauseReading(at, time) if self.read >= at && !self.has_slept => {
                    self.has_slept = true;
                    self.reads_at = Some(now.saturating_add(time));
                }
                _ => {}
            }
            if let Some(time) = self.reads_at.filter(|time| *time > now) {
                return Ok(Some(Next::Sleep(time)));
            }
            let all = self.read == self.expected_len();
            let waits_for_end = self.waits_for_end();
            match connection.try_read(&mut buffer) {
                Ok(0) if all => return Ok(Some(Next::Close)),
                Ok(0) => return Ok(Some(self.ended_early("by an end of stream"))),
                Ok(count) => self.check(&buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let is_done = self.written == self.plan.text.len() || self.write_failed;
                    return Ok((all && is_done && !waits_for_end).then(|| self.close(now)));
                }
                Err(_) => return Ok(Some(self.ended_early("by a reset"))),
            }
        }
    }

    /// Closes, or stays for the time of [`ClientBehavior::Holds`].
    fn close(&mut self, now: Time) -> Next {
        let ClientBehavior::Holds(time) = self.plan.behavior else { return Next::Close };
        let goes_at = *self.goes_at.get_or_insert(now.saturating_add(time));
        if goes_at <= now { Next::Close } else { Next::Sleep(goes_at) }
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        let replies;
        let bytes = if self.is_told_of_stops {
            replies = self.without_stopping(bytes)?;
            &replies
        } else {
            bytes
        };
        let wanted = self.expected.get(self.read..self.read + bytes.len());
        if wanted != Some(bytes) {
            let len = self.expected.len();
            return Err(format!("wrong bytes at {} of {len}: {bytes:02x?}", self.read));
        }
        self.read += bytes.len();
        Ok(())
    }

    /// The same bytes without the message that the server stops, which is between two replies.
    fn without_stopping(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut replies = Vec::new();
        for byte in bytes {
            let at = self.read + replies.len();
            let is_between = at == 0 || self.expected.get(at - 1) == Some(&b'\n');
            let is_in_it = (1..STOPPING.len()).contains(&self.stopping);
            let begins = is_between && *byte == STOPPING[0];
            if !is_in_it && !begins {
                replies.push(*byte);
            } else if STOPPING.get(self.stopping) == Some(byte) {
                self.stopping += 1;
            } else {
                return Err(format!("byte {byte:02x} in the {}th byte of a stop", self.stopping));
            }
        }
        Ok(replies)
    }

    fn ended_early(&self, how: &str) -> Next {
        Next::EndedEarly(format!("{how} after {} of {} bytes", self.read, self.expected.len()))
    }
}

impl Client for EchoClient {
    fn ready(&mut self, connection: &mut SimClient, now: Time) -> Result<Next, String> {
        let writes_at = self.write(connection, now);
        let next = self.read(connection, now)?;
        Ok(match (next, writes_at) {
            (Some(Next::Sleep(one)), Some(other)) => Next::Sleep(one.min(other)),
            (Some(next), _) => next,
            (None, Some(time)) => Next::Sleep(time),
            (None, None) => Next::Wait,
        })
    }

    fn lacks(&self, delivered: u64) -> u64 {
        let delivered = usize::try_from(delivered).unwrap_or(usize::MAX);
        let answered = if self.is_echo {
            delivered.min(self.expected.len())
        } else {
            self.requests.replies_to((self.answered)().min((self.served)()), delivered)
        };
        answered.saturating_sub(self.read) as u64
    }

    fn waits_for(&self) -> String {
        format!(
            "byte {} of {} (written {} of {}, {:?}, quit_at {:?})",
            self.read,
            self.expected.len(),
            self.written,
            self.plan.text.len(),
            self.plan.behavior,
            self.plan.quit_at
        )
    }
}

/// The complete messages in `text`, each with its reply: the same message with a changed body.
fn framed_requests(text: &[u8], change: impl Fn(&mut [u8])) -> Requests {
    let mut requests = Requests::default();
    let mut rest = text;
    while let Some(prefix) = rest.first_chunk::<4>() {
        let len = 4 + u32::from_be_bytes(*prefix) as usize;
        let Some((message, after)) = rest.split_at_checked(len) else { break };
        let mut reply = message.to_vec();
        change(&mut reply[4..]);
        requests.add(message, &reply);
        rest = after;
    }
    requests
}
