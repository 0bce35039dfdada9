//! Stand-ins for the cloud services that Buzz uses, on one machine: for tests and for looking.
