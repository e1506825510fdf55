//! The client of echo, big and framed: it knows every byte that must come back.

use crate::plan::{ClientPlan, Manner, Plan, Workload};
use std::io::ErrorKind;
use wharf::sim::{Client, Next, SimClient, Time};

#[derive(Debug)]
pub(crate) struct Talker {
    plan: ClientPlan,
    expected: Vec<u8>,
    written: usize,
    read: usize,
    /// Does not write before that.
    writes_at: Option<Time>,
    /// Does not read before that.
    reads_at: Option<Time>,
    has_slept: bool,
    /// Has stopped writing amid all, or goes at this time.
    has_paused: bool,
    goes_at: Option<Time>,
    finished: bool,
    /// Nothing can be written any more.
    deafened: bool,
    /// What it sends are messages, and where they end.
    has_messages: bool,
    ends: Vec<usize>,
}

impl Talker {
    pub(crate) fn new(plan: &Plan, client: usize) -> Self {
        let workload = plan.workload;
        let has_messages = matches!(workload, Workload::Big | Workload::Framed);
        let plan = ClientPlan::of(plan, client);
        let expected = match workload {
            Workload::Echo | Workload::Chat | Workload::Post => {
                plan.text[..plan.quit_at.unwrap_or(plan.text.len())].to_vec()
            }
            Workload::Big => answers(&plan.text),
            Workload::Framed => plan.text[..ends(&plan.text).last().copied().unwrap_or(0)].to_vec(),
        };
        let ends = if has_messages { ends(&plan.text) } else { Vec::new() };
        Self {
            has_messages,
            ends,
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
            deafened: false,
        }
    }

    /// Writes until it would block. When to go on, if not by itself.
    fn write(&mut self, connection: &mut SimClient, now: Time) -> Option<Time> {
        if let Manner::Mute(time) = self.plan.manner {
            self.writes_at.get_or_insert(now.after(time));
        }
        while self.written < self.plan.text.len() && !self.deafened {
            if let Some(time) = self.writes_at.filter(|time| *time > now) {
                return Some(time);
            }
            let mut until = self.plan.text.len();
            if let Manner::Pauses(at, time) = self.plan.manner
                && !self.has_paused
            {
                if self.written >= at {
                    self.has_paused = true;
                    self.writes_at = Some(now.after(time));
                    continue;
                }
                until = until.min(at);
            }
            let rest = &self.plan.text[self.written..until];
            match connection.try_write(&rest[..rest.len().min(self.plan.chunk)]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // What was read tells whether that is right.
                Err(_) => self.deafened = true,
            }
            if !self.plan.pace.is_zero() {
                self.writes_at = Some(now.after(self.plan.pace));
            }
        }
        if self.plan.manner == Manner::FinishEarly && !self.finished {
            self.finished = true;
            connection.shutdown_write();
        }
        None
    }

    /// Reads until it would block, or ends.
    fn read(&mut self, connection: &mut SimClient, now: Time) -> Result<Option<Next>, String> {
        let mut room = [0; 4096];
        loop {
            match self.plan.manner {
                Manner::Vanishes(resets) if self.written == self.plan.text.len() => {
                    return Ok(Some(if resets { Next::Reset } else { Next::Close }));
                }
                Manner::Leaves(at, resets) if self.read >= at => {
                    return Ok(Some(if resets { Next::Reset } else { Next::Close }));
                }
                Manner::Sleeps(at, time) if self.read >= at && !self.has_slept => {
                    self.has_slept = true;
                    self.reads_at = Some(now.after(time));
                }
                _ => {}
            }
            if let Some(time) = self.reads_at.filter(|time| *time > now) {
                return Ok(Some(Next::Sleep(time)));
            }
            let all = self.read == self.expected.len();
            let waits_for_end = self.plan.quit_at.is_some() || self.finished;
            match connection.try_read(&mut room) {
                Ok(0) if all => return Ok(Some(Next::Close)),
                Ok(0) => return Ok(Some(self.cut("by an end"))),
                Ok(count) => self.check(&room[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let is_done = self.written == self.plan.text.len() || self.deafened;
                    return Ok((all && is_done && !waits_for_end).then(|| self.go(now)));
                }
                Err(_) => return Ok(Some(self.cut("by a reset"))),
            }
        }
    }

    /// Nothing is left to be done.
    fn go(&mut self, now: Time) -> Next {
        let Manner::Holds(time) = self.plan.manner else { return Next::Close };
        let goes_at = *self.goes_at.get_or_insert(now.after(time));
        if goes_at <= now { Next::Close } else { Next::Sleep(goes_at) }
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        let wanted = self.expected.get(self.read..self.read + bytes.len());
        if wanted != Some(bytes) {
            let len = self.expected.len();
            return Err(format!("wrong bytes at {} of {len}: {bytes:02x?}", self.read));
        }
        self.read += bytes.len();
        Ok(())
    }

    fn cut(&self, how: &str) -> Next {
        Next::Cut(format!("{how} after {} of {} bytes", self.read, self.expected.len()))
    }
}

impl Client for Talker {
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
        let answered = if !self.has_messages {
            delivered.min(self.expected.len())
        } else {
            let whole = self.ends.partition_point(|end| *end <= delivered);
            whole.checked_sub(1).map_or(0, |last| self.ends[last])
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
            self.plan.manner,
            self.plan.quit_at
        )
    }
}

/// Where the messages in `text` that are whole end.
fn ends(text: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(prefix) = text.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        at += 4 + u32::from_be_bytes(*prefix) as usize;
        ends.push(at);
    }
    ends.retain(|end| *end <= text.len());
    ends
}

/// The answers to these messages: each reversed.
fn answers(text: &[u8]) -> Vec<u8> {
    let mut answers = text.to_vec();
    let mut at = 0;
    while let Some(prefix) = text.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at + 4 + u32::from_be_bytes(*prefix) as usize;
        answers[at + 4..end].reverse();
        at = end;
    }
    answers
}
