//! The choice of the back end.

use crate::limits::AskedBackEnd;
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

impl BackEndChoice {
    /// The fallback, if the preferred back end was not asked for by name.
    pub(super) fn fallback(&self, asked: AskedBackEnd, reason: &StartError) -> Option<Self> {
        let may_fall_back = matches!(named(asked), Ok(None)) && self.back_end != NEXT;
        let fallback_reason = Some(reason.to_string());
        may_fall_back.then_some(Self { back_end: NEXT, fallback_reason })
    }
}

/// The back end that `asked` or the variable `WHARF_BACKEND` names.
fn named(asked: AskedBackEnd) -> Result<Option<BackEnd>, StartError> {
    let variable = match asked {
        AskedBackEnd::Named(back_end) => return Ok(Some(back_end)),
        AskedBackEnd::Best => return Ok(None),
        AskedBackEnd::Variable => std::env::var_os("WHARF_BACKEND").unwrap_or_default(),
    };
    match &*variable.to_string_lossy() {
        "" | "auto" => Ok(None),
        name => name.parse().map(Some).map_err(|reason: String| StartError::back_end_name(&reason)),
    }
}

/// Selects the back end that is [`named`], else [`BEST`] if its probe succeeds, else [`NEXT`].
pub(super) fn choose(asked: AskedBackEnd) -> Result<BackEndChoice, StartError> {
    let asked = named(asked)?;
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
