#include "direct.h"

namespace ck::direct {

Converters& converters() {
  static Converters c;
  return c;
}

std::vector<Definition>& definitions() {
  static std::vector<Definition> d;
  return d;
}

}  // namespace ck::direct
