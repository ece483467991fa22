# The Cap'n Proto shape of the runtime bundle that workerd loads, reduced to the fields that are written here. workerd's
# readers skip what is absent, and Cap'n Proto identifies fields by number, so the numbers are what matters.
@0xd1b7f3a6c59e2048;

struct Bundle {
  modules @0 :List(Module);
}

struct Module {
  name @0 :Text;
  union {
    src @1 :Data;
    wasm @4 :Data;
    data @5 :Data;
    json @6 :Text;
  }
  tsDeclaration @3 :Text;
  type @2 :ModuleType;
  compileCache @7 :Data;
}

enum ModuleType {
  bundle @0;
  builtin @1;
  internal @2;
}
