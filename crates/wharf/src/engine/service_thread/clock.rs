//! The ticks of `Builder::every`.

use crate::engine::packets::Ticker;
use crate::shared::Shared;
use wharf_port::port::Time;

/// The tickers, each with the time of its next tick.
pub(super) struct TickClock(Vec<(Time, Ticker)>);

impl TickClock {
    pub(super) fn new(tickers: Vec<Ticker>) -> Self {
        Self(tickers.into_iter().map(|ticker| (Time::default(), ticker)).collect())
    }

    /// The first ticks are due one period from now.
    pub(super) fn begin(&mut self, now: Time) {
        for (due, ticker) in &mut self.0 {
            *due = now.saturating_add(ticker.every);
        }
    }

    /// When the next tick is due.
    pub(super) fn due(&self) -> Option<Time> {
        self.0.iter().map(|(due, _)| *due).min()
    }

    /// Gives the ticks that are due. A tick that this thread itself has missed is not made up for.
    pub(super) fn tick(&mut self, shared: &Shared, now: Time) {
        for (due, Ticker { every, ticks }) in &mut self.0 {
            if *due <= now {
                ticks.tick(shared);
                let next = due.saturating_add(*every);
                *due = if next > now { next } else { now.saturating_add(*every) };
            }
        }
    }
}
