//! The choice of the back end.

use crate::vocabulary::back_end::BackEnd;
use crate::vocabulary::error::StartError;

impl BackEnd {
    /// Probes whether this machine supports the back end.
    ///
    /// # Errors
    ///
    /// The reason why it is unavailable.
    pub fn probe(self) -> Result<(), String> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring => wharf_port::uring::probe().map_err(|error| error.to_string()),
            #[cfg(target_os = "linux")]
            Self::Epoll => Ok(()),
            #[cfg(windows)]
            Self::Iocp => Ok(()),
            #[expect(clippy::allow_attributes, reason = "each system has others that are left")]
            #[allow(unreachable_patterns, reason = "as above")]
            other => Err(format!("{other} is a back end of another system")),
        }
    }
}

/// The back end that a server runs on, and the reason if it is the fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackEndChoice {
    /// The back end.
    pub back_end: BackEnd,
    /// Why the preferred back end is unavailable; `None` if it was selected, or if the program or
    /// `WHARF_BACKEND` named the back end.
    pub fallback_reason: Option<String>,
}

/// Selects `asked`, else the back end that the variable `WHARF_BACKEND` names, else [`BEST`] if its
/// probe succeeds, else [`NEXT`].
pub(super) fn choose(asked: Option<BackEnd>) -> Result<BackEndChoice, StartError> {
    let variable = std::env::var("WHARF_BACKEND").unwrap_or_default();
    let asked = match (asked, variable.as_str()) {
        (Some(back_end), _) => Some(back_end),
        (None, "" | "auto") => None,
        (None, name) => {
            Some(name.parse().map_err(|reason: String| StartError::back_end_name(&reason))?)
        }
    };
    let back_end = asked.unwrap_or(BEST);
    match (asked, back_end.probe()) {
        (_, Ok(())) => Ok(BackEndChoice { back_end, fallback_reason: None }),
        (None, Err(reason)) if NEXT != BEST => {
            Ok(BackEndChoice { back_end: NEXT, fallback_reason: Some(reason) })
        }
        (_, Err(reason)) => Err(StartError::back_end(&back_end.to_string(), &reason)),
    }
}

/// The preferred back end of the system, and its fallback.
#[cfg(not(windows))]
const BEST: BackEnd = BackEnd::Uring;
#[cfg(not(windows))]
const NEXT: BackEnd = BackEnd::Epoll;
#[cfg(windows)]
const BEST: BackEnd = BackEnd::Iocp;
#[cfg(windows)]
const NEXT: BackEnd = BackEnd::Iocp;
