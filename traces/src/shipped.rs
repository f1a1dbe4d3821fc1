//! Traces that come with the crate. Origin and licence of each stand in `DATA.md`.

/// A built-in trace.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// The name it is opened by.
    pub name: &'static str,
    /// One line on what it is.
    pub about: &'static str,
    /// The file, as it would lie on disk.
    pub bytes: &'static [u8],
}

/// All built-in traces.
pub const SHIPPED: [Shipped; 2] = [
    Shipped {
        name: "mooncake-conversation",
        about: "Mooncake FAST'25 conversation trace, whole: 12,031 requests in one hour, blocks of 512 tokens",
        bytes: include_bytes!("../data/mooncake-conversation.jsonl.gz"),
    },
    Shipped {
        name: "azure-conv",
        about: "Azure LLM inference trace 2023, conversation, the first 6,000 requests: times and lengths",
        bytes: include_bytes!("../data/azure-conv.csv.gz"),
    },
];

/// The built-in trace of that name.
pub fn find(name: &str) -> Option<Shipped> {
    SHIPPED.into_iter().find(|s| s.name == name)
}

/// All names, for messages.
pub fn names() -> String {
    SHIPPED.map(|s| s.name).join(", ")
}
