DROP TABLE ledger.events;
DROP TABLE ledger.chains;
DROP TABLE ledger.pen;
