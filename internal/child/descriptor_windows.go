package child

// Descriptors says whether a command can be handed a [Command.Descriptor].
const Descriptors = false
