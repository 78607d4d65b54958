//! The results by which messages are counted.

/// What came of messages for the webhook (label `result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The receiver has it.
    Delivered,
    /// The receiver was away, or asked for a pause.
    Failed,
    /// The receiver refused this message.
    Refused,
    /// The receiver answered 410.
    Off,
    /// Given up because it was a day old.
    Expired,
    /// Given up because there were too many.
    Dropped,
}

impl Delivery {
    pub(crate) const ALL: [Self; 6] =
        [Self::Delivered, Self::Failed, Self::Refused, Self::Off, Self::Expired, Self::Dropped];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Off => "off",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}
